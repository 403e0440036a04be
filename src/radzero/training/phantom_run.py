"""A recipe from beginning to checkpoint: draw the phantoms, train, write a folder that ``radzero.load`` reads."""

import shutil
from collections.abc import Callable
from pathlib import Path

from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from radzero.models.conversion import save_processor
from radzero.models.processor import RadZeroProcessor
from radzero.training.loop import IMAGE_MEAN, IMAGE_STD, train
from radzero.training.phantom_pool import build_pool
from radzero.training.recipe import load_recipe

NOTICE = "Trained on synthetic phantoms only: for demonstration, not for real radiographs."


def run_recipe(
    recipe_path: Path,
    run: Path,
    *,
    workers: int = 2,
    on_progress: Callable[[str, int, int], None] = lambda phase, done, total: None,
) -> Path:
    """Train the recipe's model in ``run``; goes on where an interrupted run stopped.

    Args:
        recipe_path: YAML file of a :class:`~radzero.training.recipe.PhantomRecipe`.
        run: gets ``films/`` (the phantoms), ``state.pt``, ``metrics.jsonl`` and ``model/``.
        workers: processes that draw phantoms.
        on_progress: called with "drawing" or "training", what is done, and of how much.

    Returns:
        ``run / "model"``, a checkpoint in our format.

    Raises:
        ValueError: for a recipe that cannot be read, or a run begun with another.
    """
    recipe = load_recipe(recipe_path)
    pool = build_pool(
        run / "films",
        films=recipe.films,
        seed=recipe.film_seed,
        size=recipe.image_size,
        workers=workers,
        progress=lambda done: on_progress("drawing", done, recipe.films),
    )
    model, tokenizer = train(
        recipe, pool, run, on_step=lambda step, parts: on_progress("training", step + 1, recipe.steps)
    )
    model.config.card = {
        "data": f"{recipe.films} synthetic phantoms, radzero phantom seed {recipe.film_seed}",
        "licence": "Apache-2.0",
        "recipe": recipe_path.name,
        "seed": recipe.seed,
        "film_seed": recipe.film_seed,
        "notice": NOTICE,
    }
    folder = run / "model"
    model.save_pretrained(folder)
    size = {"height": recipe.image_size, "width": recipe.image_size}
    image_processor = BlipImageProcessorPil(size=size, image_mean=[IMAGE_MEAN] * 3, image_std=[IMAGE_STD] * 3)
    save_processor(RadZeroProcessor(image_processor, tokenizer), folder)
    shutil.copyfile(recipe_path, folder / "recipe.yaml")
    return folder
