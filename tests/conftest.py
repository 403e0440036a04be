"""Shared fixtures: a tiny checkpoint in our format, made offline, and the folder of material beside the repository."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from radzero.models.processor import RadZeroProcessor
    from radzero.models.radzero import RadZeroModel

os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported: no test may ask the hub
if "PYTEST_XDIST_WORKER" in os.environ:  # one worker per core: threads of several would wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from radzero.phantom.film import Film, make_film
from radzero.training.config import ModelChoice, ModelSizes

REPOSITORY = Path(__file__).resolve().parents[1]
TINY_NOTICE = "Tiny, of random weights: for tests, not for radiographs."


TINY = ModelChoice(
    small=ModelSizes(widths=(8, 16, 32), heads=2, align_mlp_ratio=2, text_layers=1, token_stride=8),
    align_layers=1,
    image_size=64,
)
"""A model that takes milliseconds."""


def tiny_start() -> "tuple[RadZeroModel, RadZeroProcessor]":
    """The tiny model with random weights of a fixed seed, and its processor."""
    import torch

    from radzero.training.model_building import build_start
    from radzero.training.vocabulary import phantom_words

    torch.manual_seed(3)
    return build_start(TINY, phantom_words)


@pytest.fixture(scope="session", autouse=True)
def _one_server_of_processes() -> Iterator[None]:
    """Fork data workers from the server of the test session, whose modules ``forked`` names."""
    import forked  # noqa: F401

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("multiprocessing.set_forkserver_preload", lambda modules: None)
        yield


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that ``radzero.load`` reads: our format, random weights of a fixed seed, with a notice."""
    from radzero.models.conversion import save_processor

    model, processor = tiny_start()
    model.config.card = {"data": "none", "licence": "Apache-2.0", "notice": TINY_NOTICE}
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    model.eval().save_pretrained(folder)
    save_processor(processor, folder)
    return folder


@pytest.fixture(scope="session")
def tiny_encoders(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A recipe's ``model=...`` of a tiny DINOv2 and a tiny BERT, in folders of transformers' formats."""
    import torch
    from transformers import BertConfig, BertModel, Dinov2Config, Dinov2Model

    from radzero.training.vocabulary import phantom_words, word_tokenizer

    folder = tmp_path_factory.mktemp("encoders")
    torch.manual_seed(0)
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    vision = Dinov2Model(Dinov2Config(image_size=28, patch_size=14, mlp_ratio=2, **size))
    vision.save_pretrained(folder / "vision")
    (folder / "vision/preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": "BitImageProcessor", "image_mean": [0.4] * 3, "image_std": [0.3] * 3})
    )
    tokenizer = word_tokenizer(phantom_words(), 32)
    BertModel(
        BertConfig(
            vocab_size=len(tokenizer),
            max_position_embeddings=32,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            **size,
        )
    ).save_pretrained(folder / "text")
    tokenizer.save_pretrained(folder / "text")
    return f"model={{vision: {folder / 'vision'}, text: {folder / 'text'}, image_size: 56, align_layers: 1}}"


@pytest.fixture(scope="session")
def tiny_model(tiny_checkpoint: Path):
    """``radzero.load`` of :func:`tiny_checkpoint`, on the CPU."""
    import radzero

    return radzero.load(tiny_checkpoint, device="cpu")


@pytest.fixture(scope="session")
def phantoms() -> list[Film]:
    """Six small films with whatever chance gave them."""
    return [make_film(21, index, size=96) for index in range(6)]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """``shared/data`` beside the repository: real films; not part of it."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here: the real films are not part of the repository")
    return folder
