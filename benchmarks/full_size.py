"""What a user of the published model meets: load time, memory, first answer, films per second, conversion.

    python benchmarks/fetch_mpnet.py .cache/all-mpnet-base-v2
    python benchmarks/full_size.py .cache/all-mpnet-base-v2

A checkpoint in the published format is made at full size, as the training code saves it: a DINOv2 ViT-B/14 of random
weights run at 518 x 518 pixels, two align layers of random weights, the real all-mpnet-base-v2. Its answers mean
nothing; what they cost is what the published model's cost. Each measure is taken in a process of its own, on Linux. The
figures are printed, and written to full_size.json beside the checkpoint, in the second argument (a temporary folder if
not given).
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SIDE, PATCH, TRAINED_AT, SEED = 518, 14, 224, 0
FILMS, FILM_PIXELS = 8, (2500, 2048)
MEASURES: dict[str, Callable[[Path], dict[str, float | str]]] = {}


def main() -> None:
    mpnet = Path(sys.argv[1])
    if not (mpnet / "model.safetensors").exists():
        raise SystemExit(f"{mpnet}: has no model.safetensors; python benchmarks/fetch_mpnet.py {mpnet} brings it")
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(sys.argv[2] if len(sys.argv) > 2 else temporary)
        checkpoint = work / "published"
        if not (checkpoint / "model.safetensors").exists():
            make_checkpoint(mpnet, checkpoint)
        size = (checkpoint / "model.safetensors").stat().st_size
        figures: dict[str, Any] = {"checkpoint_GB": round(size / 1e9, 3)}
        for name in MEASURES:
            figures[name] = measured(name, work)
        figures["convert"] = convert(work)
        (work / "full_size.json").write_text(json.dumps(figures, indent=1))
        print(json.dumps(figures, indent=1))


def make_checkpoint(mpnet: Path, folder: Path) -> None:
    """A published folder as the training code saves it."""
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import Dinov2Config, Dinov2Model
    from transformers.models.dinov2.modeling_dinov2 import Dinov2Encoder

    from radzero.models.published.writing import published_tensors

    torch.manual_seed(SEED)
    vision = Dinov2Model(Dinov2Config(image_size=TRAINED_AT, patch_size=PATCH))
    align = Dinov2Encoder(Dinov2Config(num_hidden_layers=2))
    for module in (vision, align):
        for parameter in module.parameters():
            parameter.data.add_(0.02 * torch.randn_like(parameter))
    own = {f"vision_model.{name}": tensor for name, tensor in vision.state_dict().items()}
    own |= {f"align_transformer.{name}": tensor for name, tensor in align.state_dict().items()}
    own |= {"layer_norm.weight": torch.ones(768), "layer_norm.bias": torch.zeros(768)}
    own |= {"log_temperature": torch.tensor(0.07).log()}
    tensors = published_tensors(own)
    tensors |= {f"text_model.{name}": tensor for name, tensor in load_file(mpnet / "model.safetensors").items()}
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    loss = {"apply": ["RadZeroLoss"], "ratio": [1.0], "RadZeroLoss": {
        "hidden_dim": 768, "sim_op": "cos", "loss_temperature": 0.07, "attn_temperature": None,
        "text_features_l2_norm": False, "mpnce_row_sum": False, "mpnce_col_sum": False,
    }}  # fmt: skip
    blocks = {"hidden_size": 768, "num_attention_heads": 12, "mlp_ratio": 4, "layer_norm_eps": 1e-6, "model_type": ""}
    config = {
        "architectures": ["CxrAlignModel"],
        "vision_config": blocks
        | {"num_hidden_layers": 12, "image_size": TRAINED_AT, "img_size": SIDE, "patch_size": PATCH},
        "text_config": {"model_type": "", "pretrained_name_or_path": "sentence-transformers/all-mpnet-base-v2"},
        "align_transformer_config": blocks | {"num_hidden_layers": 2, "use_layer_norm": False},
        "compute_logits_type": "radzero",
        "loss": loss,
    }
    preprocessor = {
        "image_processor_type": "BlipImageProcessor",
        "image_mean": [0.5307] * 3,
        "image_std": [0.2583] * 3,
        "resample": 3,
        "size": {"height": SIDE, "width": SIDE},
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=1))
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copyfile(mpnet / name, folder / name)


def measured(name: str, work: Path) -> dict[str, float | str]:
    """The figures of a measure, taken in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--measure", name, work], check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def measure(function: Callable[[Path], dict[str, float | str]]) -> Callable[[Path], dict[str, float | str]]:
    MEASURES[function.__name__] = function
    return function


def peak_gb() -> float:
    """Most memory that this process has had; getrusage would begin with its parent's."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e9


def films(count: int = FILMS) -> list[Any]:
    import numpy as np

    rows, columns = FILM_PIXELS
    ramp = np.linspace(0, 200, columns)[None] + np.zeros((rows, 1))
    return [(ramp + np.random.default_rng(k).integers(0, 55, (rows, columns))).astype(np.uint8) for k in range(count)]


def questions() -> list[str]:
    """192 sentences of some length."""
    places = ("", " on the left", " on the right", " in both lower lobes")
    findings = [f"finding number {k} of the chest" for k in range(48)]
    return [f"There is {finding}{place}" for finding in findings for place in places]


@measure
def load(work: Path) -> dict[str, float | str]:
    """Seconds and memory of radzero.load, over what imports take."""
    import radzero.prediction.model

    before, start = peak_gb(), time.perf_counter()
    radzero.prediction.model.load(work / "published", "cpu")
    seconds, peak = time.perf_counter() - start, peak_gb()
    size = (work / "published" / "model.safetensors").stat().st_size / 1e9
    return {
        "seconds": round(seconds, 2),
        "peak_over_imports_GB": round(peak - before, 3),
        "peak_over_imports_per_checkpoint": round((peak - before) / size, 2),
    }


@measure
def load_baseline(work: Path) -> dict[str, float | str]:
    """The baseline: a state dict read whole and copied into a model of initialised weights."""
    import torch
    from safetensors.torch import load_file

    from radzero.models.checkpoints import open_checkpoint
    from radzero.models.loading import build_model

    checkpoint = open_checkpoint(work / "published")
    before, start = peak_gb(), time.perf_counter()
    model = build_model(checkpoint.config)
    with torch.no_grad():
        values = checkpoint._named({k: v.clone() for k, v in load_file(checkpoint.weights.files[0]).items()})
    model.load_state_dict(values)
    seconds, peak = time.perf_counter() - start, peak_gb()
    size = (work / "published" / "model.safetensors").stat().st_size / 1e9
    return {
        "seconds": round(seconds, 2),
        "peak_over_imports_GB": round(peak - before, 3),
        "peak_over_imports_per_checkpoint": round((peak - before) / size, 2),
    }


@measure
def first_answer(work: Path) -> dict[str, float | str]:
    """From nothing imported to one film's answer to one sentence."""
    start = time.perf_counter()
    import radzero

    [reading] = radzero.load(work / "published", "cpu").predict(films(1), "There is left pleural effusion")
    reading.map(0)
    return {"seconds": round(time.perf_counter() - start, 2), "peak_GB": round(peak_gb(), 2)}


@measure
def stages(work: Path) -> dict[str, float | str]:
    """Seconds of each stage; a film is 2500 x 2048 pixels, a PNG."""
    import torch
    from PIL import Image

    import radzero

    model = radzero.load(work / "published", "cpu")
    paths = []
    for k, pixels in enumerate(films()):
        paths.append(work / f"film-{k}.png")
        Image.fromarray(pixels).save(paths[-1], compress_level=1)
    figures: dict[str, float | str] = {}

    def timed(name: str, work: Callable[[], Any], per: int) -> Any:
        start = time.perf_counter()
        result = work()
        figures[name] = round((time.perf_counter() - start) / per, 4)
        return result

    read = timed("decode_s_per_film", lambda: [radzero.read_radiograph(path) for path in paths], FILMS)
    inputs, _ = timed("preprocess_s_per_film", lambda: model.processor.films(read), FILMS)
    tokens = timed("encode_s_per_film", lambda: torch.cat([model.embed_pixels(x[None]) for x in inputs]), FILMS)
    asked = questions()
    timed("one_sentence_s", lambda: model.embed_sentences([asked[0]]), 1)
    sentences = timed("embed_192_sentences_s", lambda: model.embed_sentences(asked), 1)
    timed("embed_192_sentences_again_s", lambda: model.embed_sentences(asked), 1)
    timed("compare_192_sentences_s_per_film", lambda: model.compare(tokens, sentences), FILMS)
    readings = model.predict(paths[:1], asked[:2])
    timed("one_map_s", lambda: readings[0].map(0), 1)
    start = time.perf_counter()
    model.predict(paths, asked)
    figures["films_per_second_192_sentences"] = round(FILMS / (time.perf_counter() - start), 3)
    start = time.perf_counter()
    model.predict(paths, asked[:1])
    figures["films_per_second_one_sentence"] = round(FILMS / (time.perf_counter() - start), 3)
    figures["peak_GB"] = round(peak_gb(), 2)
    return figures


@measure
def info(work: Path) -> dict[str, float | str]:
    """``radzero info``: the command as a whole, and the memory of what it does."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "radzero.cli", "info", str(work / "published"), "--json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds = round(time.perf_counter() - start, 2)
    import radzero.prediction.model

    before = peak_gb()
    assert radzero.prediction.model.describe(work / "published")["sha256"] == json.loads(done.stdout)["sha256"]
    parameters = json.loads(done.stdout)["parameters"]["total"]
    return {"seconds": seconds, "peak_over_imports_GB": round(peak_gb() - before, 3), "parameters": parameters}


@measure
def answers(work: Path) -> dict[str, float | str]:
    """A hash of every logit and similarity of two films, in the folder that RADZERO_FOLDER names."""
    import radzero

    folder = work / os.environ.get("RADZERO_FOLDER", "published")
    digest = hashlib.sha256()
    for reading in radzero.load(folder, "cpu").predict(films(2), questions()[:8]):
        assert reading.similarity is not None
        digest.update(reading.logits.tobytes() + reading.similarity.tobytes())
    return {"sha256": digest.hexdigest()}


def convert(work: Path) -> dict[str, float | str | bool]:
    """Published to ours and back, by the command; seconds, and whether the answers' hash stays the same."""
    figures: dict[str, float | str | bool] = {}
    steps = (("published", "ours", []), ("ours", "back", ["--published"]))
    for source, target, options in steps:
        shutil.rmtree(work / target, ignore_errors=True)
        start = time.perf_counter()
        command = [sys.executable, "-m", "radzero.cli", "convert", str(work / source), str(work / target), *options]
        subprocess.run(command, check=True, capture_output=True)
        figures[f"{source}_to_{target}_s"] = round(time.perf_counter() - start, 2)
    hashes = []
    for name in ("published", "ours", "back"):
        os.environ["RADZERO_FOLDER"] = name
        hashes.append(measured("answers", work)["sha256"])
    figures["same_answers"] = len(set(hashes)) == 1
    figures["sha256"] = hashes[0]
    return figures


if __name__ == "__main__":
    if sys.argv[1] == "--measure":
        print(json.dumps(MEASURES[sys.argv[2]](Path(sys.argv[3]))))
    else:
        main()
