"""CLIP-style models in the benchmarks, against transformers' own forward pass."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    SiglipConfig,
    SiglipModel,
    SiglipTextConfig,
    SiglipVisionConfig,
)

from radzero.evaluation.clip import ClipInBenchmark
from radzero.images import Radiograph
from radzero.training.vocabulary import phantom_words, word_tokenizer

SENTENCES = ["There is mass", "There is left pleural effusion"]
SIZE = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture(params=["clip", "siglip"])
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    tokenizer = word_tokenizer(phantom_words(), 16)
    text = {**SIZE, "vocab_size": len(tokenizer), "max_position_embeddings": 16, "eos_token_id": 3}
    vision = {**SIZE, "image_size": 32, "patch_size": 8}
    if request.param == "clip":
        model = CLIPModel(
            CLIPConfig(text_config=CLIPTextConfig(**text), vision_config=CLIPVisionConfig(**vision), projection_dim=24)
        )
        kind = "CLIPImageProcessor"
    else:
        model = SiglipModel(
            SiglipConfig(text_config=SiglipTextConfig(**text), vision_config=SiglipVisionConfig(**vision))
        )
        torch.nn.init.constant_(model.logit_bias, -3.0)
        kind = "SiglipImageProcessor"
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    side = {"height": 32, "width": 32}
    settings = {
        "image_processor_type": kind,
        "size": side,
        "crop_size": side,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    return tmp_path


def test_scores_are_the_model_s_own_logits(checkpoint: Path):
    model = ClipInBenchmark(str(checkpoint))
    chance = np.random.default_rng(0)
    films = [Radiograph(chance.random((40, 36)).astype(np.float32), source=str(k)) for k in range(3)]
    seen, said = model.embed_images(films), model.embed_sentences(SENTENCES)
    logits = model.logits(seen, said)
    assert logits.shape == (3, 2)
    assert model.raw_map(seen, said, 0, 0) is None
    assert len(model.sha256) == 64
    whole = model.model.config.model_type == "siglip"
    tokens = model.tokenizer(
        SENTENCES, padding="max_length" if whole else True, max_length=16, truncation=True, return_tensors="pt"
    )
    if whole:
        tokens.pop("attention_mask")
    tokens.pop("token_type_ids", None)
    pixels = torch.stack([model.images(images=[_rgb(film)], return_tensors="pt")["pixel_values"][0] for film in films])
    with torch.no_grad():
        expected = model.model(pixel_values=pixels, **tokens).logits_per_image
    assert logits == pytest.approx(expected.numpy(), abs=1e-4)
    single = model.logits(model.embed_images(films[1:2]), model.embed_sentences(SENTENCES[:1]))
    assert single[0, 0] == pytest.approx(logits[1, 0], abs=1e-4)


def _rgb(film: Radiograph) -> np.ndarray:
    return np.repeat(film.to_uint8()[..., None], 3, axis=2)


def test_another_kind_of_model_is_refused(tiny_encoders: str, tmp_path: Path):
    vision = tiny_encoders.partition("vision: ")[2].partition(",")[0]
    with pytest.raises(ValueError, match=r"cannot be loaded as a CLIP-style model|no CLIP-style model"):
        ClipInBenchmark(vision)
