"""A comparison from recipe to table, on films and models that take seconds."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

import radzero
from command_line import call
from radzero.ablation.labelled_phantoms import labels_of
from radzero.ablation.probes import Probe, chosen_films, read_labels
from radzero.ablation.recipe import Ablation, Claim, load_ablation
from radzero.ablation.run import Job, Place, config_of, run_ablation, slug, with_prompt
from radzero.ablation.table import Line, Verdict, decide, lines_of, student_quantile, write_table
from radzero.evaluation.public import phantom
from radzero.phantom.findings import FINDINGS, Finding, Grade

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]
RECIPE = """
seeds: [0, 1]
films: {encoder: 60, train: 24, test: 24, size: 72}
encoder:
  widths: [8, 16, 32]
  heads: 2
  blocks: 1
  stages: [{token_stride: 16, images: 8, steps: 3}, {token_stride: 8, images: 8, steps: 2}]
base:
  model: {small: {widths: [8, 16, 32], heads: 2, text_layers: 1, max_words: 24}, train_vision: frozen, image_size: 72, token_stride: 16, align_layers: 1}
  data: {sentences: one, workers: 0}
  loss: {kind: clip, ignore: stated}
  loop: {epochs: 2, images_per_rank: 8, learning_rate: 1.0e-3, warmup_steps: 2, precision: fp32, patience: 0}
rows:
  - {name: "RadZero (single)", published: "(c)"}
  - {name: RadZero large, set: {model.token_stride: 8, data.sentences: all, loss.kind: multi_positive}}
  - {name: LiT, published: LiT, set: {model.method: lit}}
  - {name: dino.txt, published: dino.txt, set: {model.method: dinotxt}}
  - name: CARZero
    set: {model.method: carzero, model.options: {text_positions: 20, fusion_mlp: 16, fusion_layers: 2, simr_widths: [8]}, data.texts: merged}
    prompts: ["There is {}", "A disease of {}"]
claims:
  - {claim: similarity beats averaging, better: "RadZero (single)", worse: dino.txt, figures: [macro AUC, pointing game, Dice]}
label_shares: [0.1, 1.0]
pictures: [pleural effusion, mass]
"""  # noqa: E501


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "ablation.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def done(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole comparison, by the command."""
    output = tmp_path_factory.mktemp("comparison")
    said = call("ablate", recipe, "-o", output, "--workers", 1).stdout
    assert "table.md" in said
    return output


def test_the_table_has_every_row_and_its_spread(done: Path, recipe: Path):
    text = (done / "table.md").read_text(encoding="utf-8")
    for name in (
        "RadZero (single)",
        "RadZero large",
        "LiT",
        "dino.txt",
        'CARZero, "A disease of ..."',
        "10% of the labels",
    ):
        assert name in text
    assert "| dino.txt | - | 1 layers | no | 4 x 4 |" in text
    assert "| RadZero large | cos | 1 layers | yes | 9 x 9 |" in text
    lit = next(line for line in text.splitlines() if line.startswith("| LiT"))
    assert "0.764" in lit, "the published figure stands beside"
    assert " - | - | - |" in lit, "it has no maps"
    record = json.loads((done / "table.json").read_text())
    runs = [line.runs for line in lines_of(load_ablation(recipe), done)]
    for row, own in zip(record["rows"], runs, strict=True):
        expected = [json.loads((run / "metrics.json").read_text())["classification"]["macro AUC"][0] for run in own]
        assert row["figures"]["macro AUC"] == pytest.approx(expected)
        assert len(expected) == 2
    claims = {c["figure"]: c for c in record["claims"]}
    pointing = {r["name"]: r["figures"]["pointing game"] for r in record["rows"]}
    assert pointing["LiT"] == [None, None]
    mean = {name: np.mean(values) for name, values in pointing.items() if None not in values}
    assert claims["pointing game"]["difference"] == pytest.approx(mean["RadZero (single)"] - mean["dino.txt"])
    assert all(c["low"] <= c["difference"] <= c["high"] for c in claims.values())
    assert "macro AUC of findings from CLS, 8 pixels per token" in record["encoder"]


def test_maps_are_drawn_for_methods_that_have_them(done: Path):
    picture = np.asarray(Image.open(done / "maps.png"))
    assert picture.shape[1] == 12 + 4 * (360 + 12), "RadZero twice, dino.txt and CARZero"
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 1000


def test_every_row_has_the_same_films_and_the_same_frozen_encoder(done: Path, recipe: Path):
    ablation, place = load_ablation(recipe), Place(done)
    encoder = load_file(place.encoder / "model.safetensors")
    orders = set()
    for row in ablation.rows:
        trained = load_file(place.row(row, 0) / "model" / "model.safetensors")
        own = {k.removeprefix("vision_model."): v for k, v in trained.items() if k.startswith("vision_model.")}
        assert own.keys() == encoder.keys()
        assert all(torch.equal(own[name], encoder[name]) for name in encoder)
        scores = json.loads((place.row(row, 0) / "benchmark-0" / "run.json").read_text())
        orders.add(scores["images"])
        losses = [json.loads(line)["images"] for line in (place.row(row, 0) / "metrics.jsonl").read_text().splitlines()]
        assert sum(losses) == 2 * 24, "two epochs over every film"
    assert orders == {24}
    assert sorted(p.name for p in place.tokens.iterdir()) == ["72-16", "72-8"]


def test_a_comparison_goes_on_where_it_stopped(done: Path, recipe: Path, tmp_path: Path):
    import shutil

    copy = tmp_path / "again"
    shutil.copytree(done, copy)
    before = (copy / "table.md").read_text(), (copy / "table.json").read_text()
    shutil.rmtree(copy / "rows" / "dino-txt" / "1")
    shutil.rmtree(copy / "probes" / "0.1")
    untouched = {p: p.stat().st_mtime_ns for p in copy.rglob("model.safetensors") if "dino-txt" not in p.parts}
    assert len(untouched) > 5
    call("ablate", recipe, "-o", copy)
    assert {p: p.stat().st_mtime_ns for p in untouched} == untouched
    after = (copy / "table.md").read_text(), (copy / "table.json").read_text()
    assert after[1] == before[1]
    assert after[0].rpartition("`radzero")[0] == before[0].rpartition("`radzero")[0]


def test_rows_in_parallel_give_the_same_table(done: Path, recipe: Path, tmp_path: Path):
    import shutil

    ablation = replace(load_ablation(recipe), seeds=(0,), claims=(), label_shares=())
    for name in ("films", "encoder"):
        shutil.copytree(done / name, tmp_path / name)
    run_ablation(ablation, tmp_path, jobs=2)
    for row in ablation.rows:
        here, there = (Place(f).row(row, 0) / "benchmark-0" / "metrics.json" for f in (tmp_path, done))
        one, other = (json.loads(p.read_text())["classification"]["macro AUC"][0] for p in (here, there))
        assert one == pytest.approx(other, abs=0.02)


def test_another_comparison_is_not_mixed_in(done: Path, recipe: Path):
    ablation = load_ablation(recipe)
    with pytest.raises(ValueError, match=r"holds another comparison \(other films\); name another folder"):
        run_ablation(replace(ablation, films=replace(ablation.films, train=25)), done)
    changed = replace(ablation.rows[0], set={"loop.learning_rate": 1.0e-4})
    with pytest.raises(ValueError, match=r"other row 'RadZero \(single\)'"):
        run_ablation(replace(ablation, rows=(changed, *ablation.rows[1:])), done)


def test_comparing_models_on_a_film(done: Path, recipe: Path, tmp_path: Path):
    ablation, place = load_ablation(recipe), Place(done)
    film = next((place.test / "images").iterdir())
    folders = [place.row(row, 0) / "model" for row in ablation.rows]
    options = [x for k, folder in enumerate(folders) for x in ("-m", f"row {k}={folder}")]
    call("compare", film, *options, "-s", "There is right mass", "-s", "There is left mass", "-o", tmp_path / "c.png")
    with Image.open(tmp_path / "c.png") as picture, Image.open(film) as drawn:
        assert picture.width == 2 * 360 + 3 * 12
        assert picture.height > 5 * round(360 * drawn.height / drawn.width)
    assert radzero.describe(folders[4])["architecture"] == "CARZero"


# -- parts ------------------------------------------------------------------------------------------------


def test_prompts_change_the_findings_sentences_alone(done: Path):
    asked = with_prompt(Place(done).test, "A disease of {}")
    plain = phantom.read(Place(done).test)
    assert asked.sentences[: len(FINDINGS)] == tuple(f"A disease of {name}" for name in FINDINGS)
    assert "There is no mass" in asked.sentences
    assert asked.images == plain.images


def test_labels_of_a_film():
    labels = labels_of((Finding("mass", Grade.PLAIN, "left", "upper"), Finding("pneumothorax", Grade.PLAIN, "right")))
    mass, pneumothorax = FINDINGS.index("mass"), FINDINGS.index("pneumothorax")
    assert np.flatnonzero(labels).tolist() == sorted([mass, pneumothorax, 12 + pneumothorax, 24 + mass])


def test_shares_of_labels_are_nested():
    small, large = (set(chosen_films(1000, share, 3).tolist()) for share in (0.01, 0.1))
    assert (len(small), len(large)) == (10, 100)
    assert small < large
    assert small != set(chosen_films(1000, 0.01, 4).tolist())
    assert len(chosen_films(10, 0.001, 0)) == 1


def test_cells_are_the_share_of_a_finding(done: Path):
    films = Place(done).train
    records = [json.loads(line) for line in (films / "phantoms.jsonl").read_text().splitlines()]
    labels = read_labels(films, [r["id"] for r in records], (9, 9))
    for row, record in enumerate(records):
        found = [f for f in record["findings"] if f["name"] in FINDINGS]
        assert labels.present[row].sum() == len(found)
        for finding in found:
            mask = np.asarray(Image.open(films / finding["mask"])) > 0
            cells = labels.cells[row, FINDINGS.index(finding["name"])]
            assert float(cells.mean()) == pytest.approx(mask.mean(), abs=0.02)


class _Tokens:
    """Cached tokens in which a finding is written plainly."""

    def __init__(self, labels, size: int) -> None:
        self.labels, self.size, self.cache = labels, size, self

    def read(self, index: int) -> torch.Tensor:
        tokens = torch.randn(1 + self.labels.cells[0, 0].numel(), self.size) * 0.05
        tokens[0, :12] += self.labels.present[index]
        tokens[1:, :12] += self.labels.cells[index].flatten(1).mT
        return tokens


def test_a_probe_learns_what_its_tokens_say(done: Path):
    torch.manual_seed(0)
    films = Place(done).train
    stems = [p.stem for p in sorted((films / "images").iterdir())]
    labels = read_labels(films, stems, (9, 9))
    probe = Probe(Place(done).encoder, radzero.load().processor, "probe")
    tokens = _Tokens(labels, probe.encoder.config.hidden_size)
    probe.fit(tokens, np.arange(len(stems)), labels)  # type: ignore[arg-type]
    read = torch.stack([tokens.read(k) for k in range(len(stems))])
    sentences = probe.embed_sentences([f"There is {name}" for name in FINDINGS])
    logits = probe.logits((read, []), sentences)
    seen = labels.present.numpy().any(axis=0)
    assert ((logits > 0) == (labels.present.numpy() > 0.5))[:, seen].mean() > 0.93
    cells = torch.sigmoid(probe.cells(read[:, 1:]).detach()).mT.reshape(labels.cells.shape)
    assert float((cells - labels.cells).abs().mean()) < float((labels.cells.mean() - labels.cells).abs().mean())


def _line(name: str, runs: tuple[Path, ...]) -> Line:
    return Line(name, ("-", "-", "-", "-"), name, "", runs, {})


def test_a_row_against_itself_decides_nothing(done: Path, recipe: Path):
    line = lines_of(load_ablation(recipe), done)[0]
    claim = Claim("nothing", line.name, line.name, ("macro AUC", "Dice"))
    for verdict in decide(claim, line, line):
        assert verdict.difference == 0
        assert verdict.low <= 0 <= verdict.high
        assert verdict.holds == "not decided"
    assert Verdict("", "", "", 0.1, 0.05, 0.2).holds == "yes"
    assert Verdict("", "", "", -0.1, -0.2, -0.05).holds == "no, the reverse"


def test_quantiles_of_student():
    from scipy.stats import t

    for freedom in (1, 2, 2.7, 4, 30, 399, 5000):
        assert student_quantile(0.975, freedom) == pytest.approx(t.ppf(0.975, freedom), rel=1e-5)


def test_intervals_are_of_films_and_seeds(done: Path, recipe: Path):
    """By hand: the variance over films of the mean over seeds, and s^2 / n of each row's seeds."""
    from scipy.stats import t

    from radzero.evaluation.scoring import headline_statistics, read_scores

    lines = {line.name: line for line in lines_of(load_ablation(recipe), done)}
    better, worse = lines["RadZero (single)"], lines["LiT"]
    (verdict,) = decide(Claim("c", better.name, worse.name, ("macro AUC",)), better, worse)
    sides = [[headline_statistics(read_scores(run))["macro AUC"] for run in line.runs] for line in (better, worse)]
    films = len(read_scores(better.runs[0]).images)
    chance = np.random.default_rng(5)
    drawn = []
    for _ in range(1000):
        weights = np.bincount(chance.integers(films, size=films), minlength=films).astype(float)
        drawn.append(np.mean([s(weights) for s in sides[0]]) - np.mean([s(weights) for s in sides[1]]))
    of_seeds = [np.var([s(np.ones(films)) for s in side], ddof=1) / 2 for side in sides]
    of_films = np.nanvar(drawn, ddof=1)
    total = of_films + sum(of_seeds)
    freedom = total**2 / (of_films**2 / (films - 1) + sum(v**2 for v in of_seeds))
    assert (verdict.high - verdict.low) / 2 == pytest.approx(t.ppf(0.975, freedom) * total**0.5, rel=0.15)


def test_claims_are_decided_for_each_prompt(done: Path, tmp_path: Path):
    content = yaml.safe_load(RECIPE)
    content["prompts"] = ["There is {}", "A disease of {}"]
    content["rows"] = [row | {"prompts": content["prompts"]} for row in content["rows"] if row["name"] == "CARZero"]
    content["rows"].append(content["rows"][0] | {"name": "not trained"})
    content["claims"] = [
        {"claim": "itself", "better": "CARZero", "worse": "CARZero", "figures": ["macro AUC"]},
        {"claim": "the other", "better": "CARZero", "worse": "not trained", "figures": ["Dice"]},
    ]
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(content))
    ablation = load_ablation(tmp_path / "r.yaml")
    kept = {name: (done / name).read_bytes() for name in ("table.md", "table.json")}
    try:
        text = write_table(ablation, done).read_text()
    finally:
        for name, before in kept.items():
            (done / name).write_bytes(before)
    assert 'itself, asked "There is ..."' in text
    assert 'itself, asked "A disease of ..."' in text
    assert "Not decided, since a row is missing: the other." in text


def test_published_figures_of_a_prompt_and_of_nobody(tmp_path: Path):
    from radzero.ablation.table import _known

    published = {"a, There is {}": {"macro AUC": 0.1}, "b": {"macro AUC": 0.2}}
    assert _known(published, "a", "There is {}") == {"macro AUC": 0.1}
    assert _known(published, "a", "A disease of {}") == {}
    assert _known(published, "b", "A disease of {}") == {"macro AUC": 0.2}
    assert _known(published, "", "There is {}") == {}
    with pytest.raises(ValueError, match="no published figures of 'c'"):
        _known(published, "c", "There is {}")


@pytest.mark.parametrize("path", sorted((REPOSITORY / "recipes").glob("ablation*.yaml")), ids=lambda p: p.stem)
def test_every_row_of_the_recipes_has_the_published_figures_that_it_names(path: Path, tmp_path: Path):
    assert lines_of(load_ablation(path), tmp_path) == []  # an unknown name would be an error


def test_other_prompts_are_another_comparison(done: Path, recipe: Path, tmp_path: Path):
    content = yaml.safe_load(RECIPE)
    content["rows"][-1]["prompts"] = ["A disease of {}", "There is {}"]
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(content))
    assert "other prompts of 'CARZero'" in call("ablate", tmp_path / "r.yaml", "-o", done, code=2).output


def test_a_table_of_what_is_done_so_far(done: Path, recipe: Path, tmp_path: Path):
    ablation = load_ablation(recipe)
    assert "LiT" not in write_table(ablation, tmp_path).read_text()


# -- recipes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted((REPOSITORY / "recipes").glob("ablation*.yaml")), ids=lambda p: p.stem)
def test_the_recipes_here_can_be_run(path: Path):
    ablation = load_ablation(path)
    assert len(ablation.seeds) >= 3
    for number in range(len(ablation.rows)):
        assert config_of(ablation, Place(Path("out")), Job(number, 1)).seed == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rows": []}, "one at least"),
        ({"rows": [{"name": "a"}, {"name": "a"}]}, "no two of one name"),
        ({"claims": [], "rows": [{"name": "a", "set": {"model.method": "clap"}}]}, "row 'a': model.method is one of"),
        (
            {"claims": [], "rows": [{"name": "a", "set": {"model.methods": "lit"}}]},
            "row 'a': unknown keys model.methods",
        ),
        ({"claims": [{"claim": "c", "better": "x", "worse": "LiT", "figures": []}]}, "there is no row 'x'"),
        ({"claims": [{"claim": "c", "better": "LiT", "worse": "LiT", "figures": ["AUC"]}]}, "'AUC' is none of"),
        ({"prompts": ["There is"]}, "has no {} for the finding"),
        ({"films": {"encoder": 1, "train": 1, "test": 1, "test_seed": 11}}, "the three seeds must differ"),
        ({"seed": 1}, "unknown keys seed"),
        ({"claims": [{"claim": "c", "better": "LiT", "worse": "LiT", "figures": ["pixel AUC"]}]}, "is none of macro"),
        ({"claims": [], "rows": [{"name": "a", "set": {"model.vision": "x"}}]}, "the comparison's own"),
        ({"claims": [], "rows": [{"name": "a", "set": {"seed": 3}}]}, "the comparison's own"),
        (
            {"claims": [], "rows": [{"name": "a", "set": {"model.method": "lit", "model.similarity": "dot"}}]},
            "is for radzero",
        ),
        (
            {"claims": [], "rows": [{"name": "a", "set": {"loss.kind": "siglip"}}]},
            "siglip needs a bias",
        ),
    ],
)
def test_recipes_that_cannot_be_run(change: dict, said: str, tmp_path: Path):
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(RECIPE) | change), encoding="utf-8")
    with pytest.raises(ValueError, match="^" + str(path)) as caught:
        load_ablation(path)
    assert said in str(caught.value)


def test_names_of_folders():
    assert slug("(d) RadZero, 14 x 14") == "d-radzero-14-x-14"
    assert issubclass(Ablation, object)
