"""Recipes: what YAML says is what training does, and mistakes are named."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from radzero.training.config import ModelSizes, PhantomChoice, Stage, TrainConfig, load_config

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


@pytest.fixture
def content() -> dict[str, Any]:
    return yaml.safe_load((RECIPES / "phantom.yaml").read_text(encoding="utf-8"))


def saved(content: Any, folder: Path) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "recipe", sorted({*RECIPES.glob("*.yaml")} - {*RECIPES.glob("ablation*.yaml")}), ids=lambda path: path.name
)
def test_every_recipe_loads(recipe: Path, tmp_path: Path):
    config = load_config(recipe)
    (tmp_path / "again.yaml").write_text(config.to_yaml(), encoding="utf-8")
    assert load_config(tmp_path / "again.yaml") == config


def test_the_packaged_model_s_recipe(content: dict[str, Any]):
    config = load_config(RECIPES / "phantom.yaml")
    assert config.model.small == ModelSizes((32, 64, 128), 2, token_stride=16)
    assert config.data.phantoms is not None
    assert config.data.phantoms.seed != 990, "the benchmark's phantoms are not trained on"
    assert [stage.steps for stage in config.stages] == [stage["steps"] for stage in content["stages"]]
    strides = [c.model.small.token_stride for c in config.stage_configs if c.model.small]
    assert strides == [16, 16, 8, 8], "a stage's settings hold from then on"
    assert [c.loop.images_per_rank for c in config.stage_configs] == [32, 32, 20, 20]
    assert config.stage_configs[1].data.phantoms == PhantomChoice(films=16000, seed=1, negations=(2, 6))


def test_without_stages_the_whole_run_is_one():
    config = load_config(RECIPES / "debug.yaml")
    assert config.stages == ()
    assert config.stage_configs == (config,)


def test_whole_numbers_are_read_as_numbers(content: dict[str, Any], tmp_path: Path):
    content["loop"]["clip_norm"] = 2
    config = load_config(saved(content, tmp_path))
    assert config.loop.clip_norm == 2.0
    assert type(config.loop.clip_norm) is float


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"learning_rat": 1.0}, "unknown keys learning_rat;"),
        ({"zeta": 1, "alpha": 2}, "unknown keys alpha, zeta;"),
        ({"model": {"small": {"widths": [8, 16, 32], "heads": 2, "depth": 3}}}, "unknown keys model.small.depth;"),
        ({"seed": "zero"}, "seed must be int, not 'zero'"),
        ({"seed": 1.5}, "seed must be int, not 1.5"),
        ({"seed": True}, "seed must be int, not True"),
        ({"seed": None}, "seed must be int, not None"),
        ({"loop": {"clip_norm": "0.2"}}, "loop.clip_norm must be float, not '0.2'"),
        ({"loop": {"clip_norm": False}}, "loop.clip_norm must be float, not False"),
        ({"loss": {"ignore": 1}}, 'loss.ignore is "none", "stated" or "true", not 1'),
        ({"loss": {"ignore": "all"}}, "loss.ignore is"),
        ({"model": [1]}, "model. must be a mapping, not [1]"),
        ({"model": {"small": {"widths": 8, "heads": 2}}}, "model.small.widths must be a list, not 8"),
        ({"model": {"small": {"widths": [8, "x"], "heads": 2}}}, "model.small.widths[1] must be int, not 'x'"),
        ({"data": {}}, "give data.manifest or data.phantoms"),
        ({"data": {"manifest": "m.jsonl", "phantoms": {"films": 3}}}, "give data.manifest or data.phantoms"),
        ({"data": {"manifest": "m.jsonl"}, "stages": []}, "is known of phantoms alone"),
        ({"data": {"phantoms": {"films": 0}}}, "films must be at least 1"),
        ({"data": {"phantoms": {"films": 3, "negations": [3, 1]}}}, "negations the fewest and the most"),
        ({"stages": {"steps": 3}}, "stages must be a list"),
        ({"stages": [3]}, "stages[0]. must be a mapping, not 3"),
        ({"stages": [{"set": {}}]}, "stages[0]."),
        ({"stages": [{"steps": 0}]}, "stages[0].steps must be at least 1"),
        ({"stages": [{"steps": "many"}]}, "stages[0].steps must be int, not 'many'"),
        ({"stages": [{"steps": 1, "stride": 8}]}, "unknown keys stages[0].stride"),
        ({"stages": [{"steps": 1, "set": [1]}]}, "stages[0].set must be a mapping"),
        ({"stages": [{"steps": 1, "set": {"seed": 3}}]}, "stages[0].set.seed: a stage may set"),
        ({"stages": [{"steps": 1, "set": {"loss.ignore": 3}}]}, 'stages[0].set: loss.ignore is "none", "stated" or'),
        (
            {"stages": [{"steps": 1, "set": {"data.phantoms.negations": [1, 2, 3]}}]},
            "stages[0].set: data.phantoms.negations must have 2 entries, not 3",
        ),
    ],
)
def test_a_wrong_key_is_named(change: dict[str, Any], named: str, content: dict[str, Any], tmp_path: Path):
    path = saved(content | change, tmp_path)
    with pytest.raises(ValueError, match=r"recipe\.yaml: ") as caught:
        load_config(path)
    assert named in str(caught.value)


@pytest.mark.parametrize("missing", ["model", "data"])
def test_missing_keys_are_named(missing: str, content: dict[str, Any], tmp_path: Path):
    del content[missing]
    with pytest.raises(ValueError, match=rf"recipe\.yaml: .*missing.*'{missing}'"):
        load_config(saved(content, tmp_path))


@pytest.mark.parametrize("text", ["", "- 1\n- 2\n", "just words", "3"])
def test_what_is_no_mapping_is_refused(text: str, tmp_path: Path):
    with pytest.raises(ValueError, match=r"recipe\.yaml: the recipe must be a mapping"):
        load_config(saved(text, tmp_path))


def test_what_is_no_yaml_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"recipe\.yaml: not YAML"):
        load_config(saved("seed: [1, 2", tmp_path))


def test_a_missing_recipe_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"gone\.yaml"):
        load_config(tmp_path / "gone.yaml")


def test_a_stage_is_what_it_says():
    assert TrainConfig.__dataclass_fields__["stages"].default == ()
    assert Stage(3).set == {}
