"""Shared fixtures: a tiny checkpoint in our format, made offline, and the folder of material beside the repository."""

import os
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported: no test may ask the hub

from radzero.phantom.film import Film, make_film
from radzero.training.recipe import ModelSizes, PhantomRecipe, Stage

REPOSITORY = Path(__file__).resolve().parents[1]
TINY_NOTICE = "Tiny, of random weights: for tests, not for radiographs."


def tiny_recipe(**changes: object) -> PhantomRecipe:
    """A recipe whose model takes milliseconds."""
    settings: dict[str, object] = {
        "seed": 3,
        "film_seed": 5,
        "films": 250,
        "image_size": 64,
        "model": ModelSizes(widths=(8, 16, 32), heads=2, align_layers=1, align_mlp_ratio=2, text_layers=1),
        "stages": (Stage(steps=4, batch=4, token_stride=8, negations=(0, 2), binary_weight=0.5),),
        "learning_rate": 1e-3,
        "weight_decay": 0.05,
        "warmup_steps": 2,
        "clip_norm": 1.0,
        "binary_negative_weight": 1.0,
        "ignore": "stated",
        "shift": 3,
        "gamma": 0.2,
    }
    return PhantomRecipe(**(settings | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that ``radzero.load`` reads: our format, random weights of a fixed seed, with a notice."""
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    from radzero.models.conversion import save_processor
    from radzero.models.processor import RadZeroProcessor
    from radzero.training.loop import IMAGE_MEAN, IMAGE_STD, build_model

    recipe = tiny_recipe()
    model, tokenizer = build_model(recipe)
    model.config.card = {"data": "none", "licence": "Apache-2.0", "notice": TINY_NOTICE}
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    model.eval().save_pretrained(folder)
    size = {"height": recipe.image_size, "width": recipe.image_size}
    image_processor = BlipImageProcessorPil(size=size, image_mean=[IMAGE_MEAN] * 3, image_std=[IMAGE_STD] * 3)
    save_processor(RadZeroProcessor(image_processor, tokenizer), folder)
    return folder


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
