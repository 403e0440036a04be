"""The way from a model hub: what is asked for, what is kept, and what is said when something is not there.

A small server on loopback speaks the hub's protocol (hub_server.py). In processes of the tool's own, every connection
that would leave loopback raises.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hub_server import COMMIT, OLDER, Hub, Repository
from huggingface_hub import constants
from PIL import Image
from published import Published, make_published, write_json, write_published
from test_published_checkpoint import FILM, SENTENCES, assert_equals_slow, assert_same_answers
from typer.main import get_command

from command_line import call
from radzero.cli import app
from radzero.models.checkpoints import CheckpointError, open_checkpoint, read_processor
from radzero.models.hub import NEEDED, split_revision
from radzero.prediction.model import RadZero, load

pytestmark = pytest.mark.slow

NAME = "Deepnoid/RadZero"
HUB_FORM: dict[str, Any] = {"form": "hub", "auto_map": True, "loss_name": "KeyPhraseAlignmentLoss"}


@pytest.fixture(scope="module")
def published() -> Published:
    return make_published(seed=50)


@pytest.fixture
def folder(published: Published, tmp_path: Path) -> Path:
    """A repository as the published one is: what is needed, and sentences, label files, code and a pickle."""
    folder = write_published(published, tmp_path / "repository", **HUB_FORM)
    (folder / "data").mkdir()
    write_json(folder / "data" / "sentences.json", ["There is edema"])
    write_json(folder / "data" / "config.json", {"not": "this one"})
    (folder / "modeling_radzero.py").write_text("raise SystemExit('code of the repository was run')")
    (folder / "configuration_radzero.py").write_text("raise SystemExit('code of the repository was run')")
    (folder / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    (folder / "pytorch_model.bin").write_bytes(b"not to be read")
    return folder


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that this process asks, with an empty cache."""
    with Hub() as server:
        ask(monkeypatch, server.endpoint)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        yield server


def ask(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    """What HF_ENDPOINT does before the client is imported."""
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = f"{endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def one_line(error: pytest.ExceptionInfo[CheckpointError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert text.startswith(NAME)
    return text


# -- what is asked for -----------------------------------------------------------------------------------------


def test_only_what_is_needed_is_fetched_and_only_once(
    hub: Hub, folder: Path, published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repositories[NAME] = Repository(folder)
    model = load(NAME, "cpu")
    assert model.name == NAME
    [reading] = model.predict(FILM, SENTENCES)
    assert_equals_slow(reading, published, FILM)
    assert sorted(hub.files_sent()) == sorted(
        ["config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt",
         "special_tokens_map.json", "model.safetensors"]
    )  # fmt: skip
    assert not any("/data/" in request for request in hub.requests)
    hub.requests.clear()
    load(NAME, "cpu")
    assert hub.files_sent() == []
    assert len(hub.requests) == 1, "which commit is the main branch's"
    hub.requests.clear()
    load(NAME, "cpu", local_files_only=True)
    load(NAME, "cpu", revision=COMMIT)
    offline(monkeypatch)
    load(NAME, "cpu")
    assert hub.requests == []


def test_shards_are_those_that_the_index_names(hub: Hub, published: Published, tmp_path: Path) -> None:
    folder = write_published(published, tmp_path / "sharded", shards=3, **HUB_FORM)
    shutil.copy(folder / "model-00001-of-00003.safetensors", folder / "optimizer.safetensors")
    hub.repositories[NAME] = Repository(folder)
    [reading] = load(NAME, "cpu").predict(FILM, SENTENCES)
    assert_equals_slow(reading, published, FILM)
    weights = sorted(name for name in hub.files_sent() if name.endswith(".safetensors"))
    assert weights == [f"model-0000{k}-of-00003.safetensors" for k in (1, 2, 3)]
    hub.requests.clear()
    load(NAME, "cpu", local_files_only=True)
    assert hub.requests == []


def test_of_weights_whole_and_in_shards_the_whole_are_fetched(hub: Hub, published: Published, tmp_path: Path) -> None:
    folder = write_published(published, tmp_path / "both", shards=2, **HUB_FORM)
    write_published(published, folder, **HUB_FORM)
    hub.repositories[NAME] = Repository(folder)
    load(NAME, "cpu")
    assert [name for name in hub.files_sent() if name.endswith(".safetensors")] == ["model.safetensors"]


def test_a_processor_needs_no_weights(hub: Hub, folder: Path) -> None:
    hub.repositories[NAME] = Repository(folder)
    processor = read_processor(NAME)
    assert processor.sentences(["There is edema"])["input_ids"].shape[0] == 1
    assert set(hub.files_sent()) <= set(NEEDED)
    assert "model.safetensors" not in hub.files_sent()


def test_revisions(hub: Hub, folder: Path, tmp_path: Path) -> None:
    older = make_published(seed=51)
    hub.repositories[NAME] = Repository(folder, older=write_published(older, tmp_path / "older", **HUB_FORM))
    for model in (load(NAME, "cpu", revision="v1"), load(f"{NAME}@v1", "cpu"), load(NAME, "cpu", revision=OLDER)):
        [reading] = model.predict(FILM, SENTENCES)
        assert_equals_slow(reading, older, FILM)
        assert reading.model.startswith(f"{NAME}@")
    with pytest.raises(CheckpointError, match="names revision v1, and main is asked for"):
        load(f"{NAME}@v1", "cpu", revision="main")
    with pytest.raises(CheckpointError) as error:
        load(NAME, "cpu", revision="v2")
    assert "no revision v2" in one_line(error)


def test_a_folder_is_not_asked_of_the_hub(hub: Hub, folder: Path) -> None:
    load(folder, "cpu")
    assert hub.requests == []


@pytest.mark.parametrize(
    ("source", "parts"),
    [("a/b", ("a/b", None)), ("a/b@v1", ("a/b", "v1")), ("a/b@", ("a/b@", None)), ("@x", ("", "x"))],
)
def test_names_with_revisions(source: str, parts: tuple[str, str | None]) -> None:
    assert split_revision(source) == parts


# -- what is refused -------------------------------------------------------------------------------------------


def test_a_name_that_the_hub_does_not_know(hub: Hub) -> None:
    with pytest.raises(CheckpointError) as error:
        load(NAME, "cpu")
    assert "hub knows no such model" in one_line(error)
    assert "hf auth login" in str(error.value)
    shown = call("info", NAME, code=2).output
    assert shown.startswith(f"error: {NAME}: no such folder, and the hub knows no such model")
    assert shown.count("\n") == 1


def test_a_gated_model_says_whom_to_ask(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repositories[NAME] = Repository(folder, access="gated")
    with pytest.raises(CheckpointError) as error:
        load(NAME, "cpu")
    assert "is gated: accept its terms" in one_line(error)
    assert "HF_TOKEN" in str(error.value)
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    assert isinstance(load(NAME, "cpu"), RadZero)


def test_a_private_model_says_to_log_in(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repositories[NAME] = Repository(folder, access="private")
    with pytest.raises(CheckpointError) as error:
        load(NAME, "cpu")
    assert "private" in one_line(error)
    assert "HF_TOKEN" in str(error.value)
    assert open_checkpoint(NAME, token="hf_right").published


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_hub_that_is_out_of_order(status: int, hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)  # the client tries again by itself
    hub.repositories[NAME] = Repository(folder, status=status)
    with pytest.raises(CheckpointError) as error:
        load(NAME, "cpu")
    assert "again" in one_line(error)


@pytest.mark.parametrize("cached", [False, True])
def test_a_hub_that_never_answers_is_not_waited_for(
    cached: bool, hub: Hub, folder: Path, published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind a firewall: the connection is taken, and nothing comes."""
    hub.repositories[NAME] = Repository(folder)
    if cached:
        load(NAME, "cpu")
    monkeypatch.setattr("radzero.models.hub._PATIENCE_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        ask(monkeypatch, f"http://127.0.0.1:{silent.getsockname()[1]}")
        if cached:
            [reading] = load(NAME, "cpu").predict(FILM, SENTENCES)
            assert_equals_slow(reading, published, FILM)
        else:
            with pytest.raises(CheckpointError) as error:
                load(NAME, "cpu")
            assert "does not answer" in one_line(error)


@pytest.mark.parametrize(
    ("missing", "shown"),
    [
        ("config.json", "has no config.json"),
        ("model.safetensors", "has no model.safetensors"),
        ("preprocessor_config.json", "preprocessor_config"),
    ],
)
def test_a_repository_without_a_file(missing: str, shown: str, hub: Hub, folder: Path) -> None:
    (folder / missing).unlink()
    hub.repositories[NAME] = Repository(folder)
    with pytest.raises(CheckpointError, match=shown):
        load(NAME, "cpu")


def test_a_connection_that_breaks_off_is_taken_up_again(
    hub: Hub, folder: Path, published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the hub's client itself, once; what it has is not fetched twice."""
    monkeypatch.setattr("time.sleep", lambda _: None)
    hub.repositories[NAME] = Repository(folder, breaks={"model.safetensors": 20_000})
    [reading] = load(NAME, "cpu").predict(FILM, SENTENCES)
    assert_equals_slow(reading, published, FILM)


class Stubborn(dict[str, int]):
    """Breaks that happen every time."""

    def pop(self, key: str, *_: Any) -> int:
        return self[key]


def test_a_connection_that_breaks_off_every_time_is_said_and_the_next_run_goes_on(
    hub: Hub, folder: Path, published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    hub.repositories[NAME] = Repository(folder, breaks=Stubborn({"model.safetensors": 20_000}))
    with pytest.raises(CheckpointError) as error:
        load(NAME, "cpu")
    assert "Run the same again: files that are fetched already are kept" in one_line(error)
    hub.repositories[NAME] = Repository(folder)
    hub.requests.clear()
    [reading] = load(NAME, "cpu").predict(FILM, SENTENCES)
    assert_equals_slow(reading, published, FILM)
    assert hub.files_sent() == ["model.safetensors"]


def test_a_file_that_is_half_there_is_named_and_finished_by_the_next_run(
    hub: Hub, folder: Path, published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repositories[NAME] = Repository(folder)
    read_processor(NAME)  # everything but the weights
    blobs = tmp_path / "cache" / f"models--{NAME.replace('/', '--')}" / "blobs"
    offline(monkeypatch)
    with pytest.raises(CheckpointError) as error:
        load(NAME, "cpu")
    assert "not wholly" in one_line(error)
    assert "Fetch it once" in str(error.value)
    with pytest.raises(CheckpointError, match="not wholly"):
        load(NAME, "cpu", local_files_only=True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("time.sleep", lambda _: None)
    content = (folder / "model.safetensors").read_bytes()
    assert not any(path.read_bytes() == content for path in blobs.iterdir())
    [reading] = load(NAME, "cpu").predict(FILM, SENTENCES)
    assert_equals_slow(reading, published, FILM)


def test_a_file_that_was_cut_in_the_cache_is_named(hub: Hub, folder: Path) -> None:
    hub.repositories[NAME] = Repository(folder)
    checkpoint = open_checkpoint(NAME)
    path = (checkpoint.folder / "model.safetensors").resolve()
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: damaged or truncated") as error:
        load(NAME, "cpu")
    assert f"delete {path}" in str(error.value)
    path.unlink()
    load(NAME, "cpu")


def test_a_machine_without_internet_uses_what_it_has(
    hub: Hub, folder: Path, published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repositories[NAME] = Repository(folder)
    load(NAME, "cpu")
    ask(monkeypatch, "http://127.0.0.1:9")  # nobody listens there
    [reading] = load(NAME, "cpu").predict(FILM, SENTENCES)
    assert_equals_slow(reading, published, FILM)
    with pytest.raises(CheckpointError, match="hub does not answer"):
        load("Deepnoid/Another", "cpu")


def test_a_cache_that_may_only_be_read_serves(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that is shared by many users; root may write everywhere, so the write is made to fail."""
    hub.repositories[NAME] = Repository(folder)
    load(NAME, "cpu")

    def refuse(*_: Any) -> None:
        raise PermissionError(30, "Read-only file system")

    monkeypatch.setattr("radzero.models.hub.write_whole", refuse)
    assert isinstance(load(NAME, "cpu"), RadZero)


# -- the tool itself -------------------------------------------------------------------------------------------

_GUARD = """
import socket
connect = socket.socket.connect
def guarded(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
        raise SystemExit(f"a connection left loopback: {address}")
    return connect(self, address)
socket.socket.connect = guarded
"""


@pytest.fixture
def tool(tmp_path: Path) -> Iterator[Any]:
    """Runs Python with arguments against a hub, in a process whose connections may not leave loopback."""
    (tmp_path / "guard").mkdir()
    (tmp_path / "guard" / "sitecustomize.py").write_text(_GUARD)
    with Hub() as server:
        home = {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": server.endpoint}
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "COV"))}
        environment = kept | home | {"PYTHONPATH": str(tmp_path / "guard"), "COLUMNS": "200"}

        def run(*arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
            command = [sys.executable, *arguments]
            return subprocess.run(command, env=environment | extra, capture_output=True, text=True, check=False)

        run.hub = server  # type: ignore[attr-defined]
        yield run


def test_the_commands(tool: Any, folder: Path, tmp_path: Path) -> None:
    tool.hub.repositories[NAME] = Repository(folder)
    Image.fromarray(FILM).save(tmp_path / "film.png")
    ask = ["predict", str(tmp_path / "film.png"), "-s", SENTENCES[1], "--model", NAME, "--no-overlays"]
    first = tool("-m", "radzero.cli", *ask, "-o", str(tmp_path / "one"))
    assert first.returncode == 0, first.stderr
    assert first.stderr.count("fetching") == 1, "one bar, of the tool's own form"
    assert "it/s" not in first.stderr
    assert tool.hub.files_sent().count("model.safetensors") == 1
    tool.hub.requests.clear()
    again = tool("-m", "radzero.cli", *ask, "-o", str(tmp_path / "two"), HF_HUB_OFFLINE="1")
    assert again.returncode == 0, again.stderr
    assert tool.hub.requests == []
    assert "fetching" not in again.stderr
    lines = [(tmp_path / run / "predictions.jsonl").read_text() for run in ("one", "two")]
    assert lines[0] == lines[1]


@pytest.mark.parametrize(
    "command",
    [
        ["predict", "{film}", "-s", "There is edema", "-o", "{out}", "--no-overlays", "--workers", "0", "--model"],
        ["predict", "{film}", "-s", "There is edema", "-o", "{out}", "--no-overlays", "--workers", "0", "--revision",
         "v1", "--model"],
        ["info"],
        ["info", "--revision", "v1"],
        ["compare", "{film}", "-s", "There is edema", "-o", "{out}.png", "-m"],
        ["compare", "{film}", "-s", "There is edema", "-o", "{out}.png", "--revision", "v1", "-m"],
    ],
)  # fmt: skip
def test_every_command_takes_a_revision_and_may_ask_nothing(
    command: list[str], hub: Hub, folder: Path, tmp_path: Path
) -> None:
    hub.repositories[NAME] = Repository(folder, older=folder)
    Image.fromarray(FILM).save(tmp_path / "film.png")
    arguments = [part.format(film=tmp_path / "film.png", out=tmp_path / "out") for part in command]
    refused = call(*arguments, NAME, "--local-files-only", code=2)
    assert "not to be asked" in refused.output.replace("\n", " ")
    assert hub.requests == []
    call(*arguments, NAME)
    asked = [request for request in hub.requests if "/revision/" in request]
    assert asked == [f"GET /api/models/{NAME}/revision/{'v1' if 'v1' in command else 'main'}"]
    hub.requests.clear()
    if command[0] == "predict":
        shutil.rmtree(tmp_path / "out")
    call(*arguments, NAME, "--local-files-only")
    assert hub.requests == []


@pytest.mark.parametrize(
    "command", ["view", "serve", "dicomweb", "listen", "convert", "evaluate rsna", "evaluate phantom"]
)
def test_the_other_commands_have_the_options(command: str) -> None:
    found: Any = get_command(app)
    for name in command.split():
        found = found.commands[name]
    options = {option for parameter in found.params for option in parameter.opts}
    assert {"--revision", "--local-files-only"} <= options


def test_convert_keeps_the_answers(hub: Hub, folder: Path, tmp_path: Path) -> None:
    hub.repositories[NAME] = Repository(folder)
    call("convert", f"{NAME}@{COMMIT}", str(tmp_path / "ours"))
    assert_same_answers(load(NAME, "cpu"), load(tmp_path / "ours", "cpu"))


_AUTO = """
import sys, radzero
assert not {"torch", "transformers"} & set(sys.modules)
from transformers import AutoModel, AutoProcessor
model = AutoModel.from_pretrained(sys.argv[1])
processor = AutoProcessor.from_pretrained(sys.argv[1])
assert type(model) is radzero.RadZeroModel, type(model)
assert type(processor) is radzero.RadZeroProcessor, type(processor)
assert model.config.position_rule == "offset" and model.config.text_config.layer_norm_eps == 1e-5
import numpy as np
film = np.load(sys.argv[2])
[reading] = radzero.RadZero(model, processor, name="auto").predict(film, sys.argv[3:])
np.save(sys.argv[2], reading.logits)
"""


def test_auto_classes_after_importing_radzero(tool: Any, folder: Path, tmp_path: Path) -> None:
    """No code of the repository is run, nor is leave asked to run it."""
    tool.hub.repositories[NAME] = Repository(folder)
    np.save(tmp_path / "film.npy", FILM)
    done = tool("-c", _AUTO, NAME, str(tmp_path / "film.npy"), *SENTENCES)
    assert done.returncode == 0, done.stderr
    assert not any(request.endswith(".py") for request in tool.hub.requests)
    [expected] = load(folder, "cpu").predict(FILM, SENTENCES)
    assert np.array_equal(np.load(tmp_path / "film.npy"), expected.logits)


def test_training_takes_encoders_by_hub_id(
    hub: Hub, tiny_encoders: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vision, text = re.findall(r"(?:vision|text): ([^,}]+)", tiny_encoders)
    hub.repositories["microsoft/tiny-dino"] = Repository(Path(vision), older=Path(vision))
    hub.repositories["somebody/tiny-bert"] = Repository(Path(text))
    (tmp_path / "recipe.yaml").write_text(
        "model: {vision: microsoft/tiny-dino@v1, text: somebody/tiny-bert, image_size: 70, align_layers: 1}\n"
        "data: {phantoms: {films: 8, seed: 5}, workers: 0}\n"
        "loop: {epochs: 1, images_per_rank: 4, precision: fp32}\n"
    )
    call("train", tmp_path / "recipe.yaml", "-o", tmp_path / "run")
    assert any("tiny-dino/resolve" in request for request in hub.requests)
    hub.requests.clear()
    call("train", tmp_path / "recipe.yaml", "-o", tmp_path / "again", "--local-files-only")
    assert hub.requests == []
    missing = ["model.text=somebody/another", "--local-files-only"]
    refused = call("train", tmp_path / "recipe.yaml", "-o", tmp_path / "third", *missing, code=2)
    assert "somebody/another" in refused.output
