"""The real all-mpnet-base-v2, where it is there: its tokens, its sentence embeddings, its place in a published folder.

``python benchmarks/fetch_mpnet.py .cache/all-mpnet-base-v2`` brings it.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from published import as_saved, make_published, write_json, write_tensors
from safetensors.torch import load_file
from test_published_checkpoint import FILM
from tokenizers import Tokenizer
from torch import Tensor
from transformers import MPNetModel

from radzero.models.checkpoints import load_processor
from radzero.prediction.model import RadZero, load

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = Path(os.environ.get("RADZERO_MPNET", REPOSITORY / ".cache" / "all-mpnet-base-v2"))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (FOLDER / "model.safetensors").exists(),
        reason=f"{FOLDER} is not here: benchmarks/fetch_mpnet.py {FOLDER.name} brings it, RADZERO_MPNET names it",
    ),
]

FINDINGS = (
    "pleural effusion", "pneumothorax", "cardiomegaly", "consolidation", "atelectasis", "pulmonary edema", "a nodule",
    "a calcified granuloma", "rib fracture", "an endotracheal tube", "hilar lymphadenopathy", "interstitial thickening",
    "emphysema", "a hiatal hernia", "a pacemaker", "subcutaneous emphysema", "tuberculosis",
)  # fmt: skip
SENTENCES = [
    f"{start} {finding}{place}"
    for finding in FINDINGS
    for start, place in (
        ("There is", ""),
        ("There is no", ""),
        ("There may be", " in the left lower lobe"),
        ("There is", " at the right apex"),
        ("There is no", " on the left"),
        ("There is mild", ", more on the right than on the left, without a mediastinal shift"),
    )
][:100]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As the training code saves it: a tiny vision encoder, the real text encoder, nothing said of it but its name."""
    published = make_published(width=768, heads=12, text_width=768, text_heads=12)
    folder = tmp_path_factory.mktemp("published") / "checkpoint"
    folder.mkdir()
    tensors = {
        name: torch.from_numpy(value) for name, value in published.weights.items() if not name.startswith("text_model.")
    }
    tensors |= {f"text_model.{name}": tensor for name, tensor in load_file(FOLDER / "model.safetensors").items()}
    write_tensors(folder, tensors)
    write_json(folder / "config.json", as_saved(published.config, "saved"))
    write_json(folder / "preprocessor_config.json", published.preprocessor)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copyfile(FOLDER / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> RadZero:
    return load(folder, "cpu")


@pytest.fixture(scope="module")
def pooled() -> Tensor:
    """Mean over each sentence's states by transformers, one sentence at a time, tokens by the tokenizers library."""
    tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    encoder = MPNetModel.from_pretrained(FOLDER, add_pooling_layer=False).eval()
    with torch.no_grad():
        rows = [
            encoder(torch.tensor([tokenizer.encode(sentence).ids])).last_hidden_state[0].mean(dim=0)
            for sentence in SENTENCES
        ]
    return torch.stack(rows)


def test_its_configuration_is_its_own(model: RadZero) -> None:
    found, own = model.model.config.text_config, json.loads((FOLDER / "config.json").read_text())
    for key in own.keys() - {"_name_or_path", "architectures", "transformers_version", "initializer_range"}:
        assert getattr(found, key) == own[key], key


def test_tokens_are_the_tokenizers_own(model: RadZero) -> None:
    tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    tokenizer.no_padding()
    texts = [*SENTENCES, "Ödem;  CHF\tvs. PNA?", "s/p CABG -- 3.5 cm (R>L)", "ﬁne septal lines"]
    encoded = model.processor.sentences(texts)
    for k, text in enumerate(texts):
        assert encoded["input_ids"][k][encoded["attention_mask"][k].bool()].tolist() == tokenizer.encode(text).ids
    assert encoded["input_ids"].shape[1] < 40, "padded to the longest, not to the 128 of the tokenizer's own file"
    assert model.processor.max_tokens == 512


@pytest.mark.parametrize("batch", [1, 7, 100])
def test_sentence_embeddings_are_those_of_transformers(batch: int, model: RadZero, pooled: Tensor) -> None:
    """Alone and in batches, before the shared LayerNorm."""
    assert len(SENTENCES) == len(set(SENTENCES)) == 100
    chosen = slice(None, None, {1: 4, 7: 3}.get(batch, 1))
    asked, parts = SENTENCES[chosen], []
    with torch.no_grad():
        for first in range(0, len(asked), batch):
            parts.append(model.model.pooled_states(**model.processor.sentences(asked[first : first + batch])))
    torch.testing.assert_close(torch.cat(parts), pooled[chosen], atol=1e-5, rtol=0)


def test_what_is_asked_is_that_embedding_after_the_shared_layer_norm(model: RadZero, pooled: Tensor) -> None:
    found = model.embed_sentences(SENTENCES)
    with torch.no_grad():
        torch.testing.assert_close(found, model.model.layer_norm(pooled), atol=2e-5, rtol=0)


def test_it_knows_every_word_of_a_report(model: RadZero) -> None:
    """Its vocabulary is of word pieces, so that no word is unknown."""
    assert model.processor.unknown_words("There is bronchopneumonia with pneumatoceles, s/p VATS") == []
    assert np.isfinite(model.predict(FILM, "bronchopneumonia")[0].logits).all()


def test_a_long_report_is_cut_where_its_positions_end(model: RadZero) -> None:
    text = "There is a small nodule in the left upper lobe. " * 60
    encoded = model.processor.sentences([text])
    assert encoded["input_ids"].shape == (1, 512)
    with torch.no_grad():
        assert torch.isfinite(model.model.pooled_states(**encoded)).all()
    assert load_processor(model.folder, model.model.config).positions == 512
