"""Recipes: what YAML says is what training does, and mistakes are named."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from radzero.training.recipe import ModelSizes, PhantomRecipe, Stage, load_recipe

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "phantom.yaml"


@pytest.fixture
def content() -> dict[str, Any]:
    return yaml.safe_load(RECIPE.read_text(encoding="utf-8"))


def saved(content: Any, folder: Path) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return path


def test_the_packaged_model_s_recipe_loads(content: dict[str, Any]):
    recipe = load_recipe(RECIPE)
    assert recipe == load_recipe(str(RECIPE))
    assert recipe.model == ModelSizes(
        **{k: tuple(v) if isinstance(v, list) else v for k, v in content["model"].items()}
    )
    assert all(isinstance(stage, Stage) for stage in recipe.stages)
    assert recipe.steps == sum(stage["steps"] for stage in content["stages"])
    for field in fields(PhantomRecipe):
        if field.name not in ("model", "stages"):
            assert getattr(recipe, field.name) == content[field.name]
            assert type(getattr(recipe, field.name)) is field.type or field.type == "float"
    assert recipe.film_seed != 990, "the benchmark's phantoms are not trained on"


def test_whole_numbers_are_read_as_numbers(content: dict[str, Any], tmp_path: Path):
    recipe = load_recipe(saved(content | {"clip_norm": 2}, tmp_path))
    assert recipe.clip_norm == 2.0
    assert type(recipe.clip_norm) is float


def test_sizes_have_defaults(content: dict[str, Any], tmp_path: Path):
    content["model"] = {"widths": [8, 16, 32], "heads": 2}
    assert load_recipe(saved(content, tmp_path)).model == ModelSizes((8, 16, 32), 2)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"learning_rat": 1.0}, "unknown keys learning_rat;"),
        ({"zeta": 1, "alpha": 2}, "unknown keys alpha, zeta;"),
        ({"model": {"widths": [8, 16, 32], "heads": 2, "depth": 3}}, "unknown keys model.depth;"),
        ({"seed": "zero"}, "seed must be int, not 'zero'"),
        ({"seed": 1.5}, "seed must be int, not 1.5"),
        ({"seed": True}, "seed must be int, not True"),
        ({"seed": None}, "seed must be int, not None"),
        ({"gamma": "0.2"}, "gamma must be float, not '0.2'"),
        ({"gamma": False}, "gamma must be float, not False"),
        ({"ignore": 1}, "ignore must be str, not 1"),
        ({"model": [1]}, "model. must be a mapping, not [1]"),
        ({"model": {"widths": 8, "heads": 2}}, "model.widths must be a list, not 8"),
        ({"model": {"widths": [8, "x"], "heads": 2}}, "model.widths[1] must be int, not 'x'"),
        ({"stages": {"steps": 3}}, "stages must be a list"),
        ({"stages": [3]}, "stages[0]. must be a mapping, not 3"),
    ],
)
def test_a_wrong_key_is_named(change: dict[str, Any], named: str, content: dict[str, Any], tmp_path: Path):
    path = saved(content | change, tmp_path)
    with pytest.raises(ValueError, match=r"recipe\.yaml: ") as caught:
        load_recipe(path)
    assert named in str(caught.value)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"steps": "many"}, "stages[1].steps must be int, not 'many'"),
        ({"negations": [1, 2, 3]}, "stages[1].negations must have 2 entries, not 3"),
        ({"negations": 2}, "stages[1].negations must be a list, not 2"),
        ({"stride": 8}, "unknown keys stages[1].stride"),
    ],
)
def test_a_wrong_key_of_a_stage_is_named(change: dict[str, Any], named: str, content: dict[str, Any], tmp_path: Path):
    content["stages"][1] |= change
    with pytest.raises(ValueError, match=r"recipe\.yaml: ") as caught:
        load_recipe(saved(content, tmp_path))
    assert named in str(caught.value)


@pytest.mark.parametrize("missing", [["seed"], ["films", "gamma"]])
def test_missing_keys_are_named(missing: list[str], content: dict[str, Any], tmp_path: Path):
    kept = {key: value for key, value in content.items() if key not in missing}
    with pytest.raises(ValueError, match=r"recipe\.yaml: .*missing") as caught:
        load_recipe(saved(kept, tmp_path))
    assert all(f"'{key}'" in str(caught.value) for key in missing)


def test_missing_keys_of_a_stage_are_named(content: dict[str, Any], tmp_path: Path):
    del content["stages"][2]["batch"]
    with pytest.raises(ValueError, match=r"stages\[2\]\..*'batch'"):
        load_recipe(saved(content, tmp_path))


@pytest.mark.parametrize("text", ["", "- 1\n- 2\n", "just words", "3"])
def test_what_is_no_mapping_is_refused(text: str, tmp_path: Path):
    with pytest.raises(ValueError, match=r"recipe\.yaml: the recipe must be a mapping"):
        load_recipe(saved(text, tmp_path))


def test_what_is_no_yaml_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"recipe\.yaml: not YAML"):
        load_recipe(saved("seed: [1, 2", tmp_path))


def test_a_missing_recipe_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"gone\.yaml"):
        load_recipe(tmp_path / "gone.yaml")
