"""A benchmark run of 192 sentences, ours against re-encoding every sentence, one at a time, for every batch of images.

The latter is what the published evaluation does. Both read the same films from disk, both with a full-size MPNet of
random weights and the same small vision encoder, so that the text side is what differs.

    python benchmarks/evaluation_speed.py            # 64 films, batches of 8; a few minutes on 2 cores

Prints a line of JSON: seconds of both, their ratio, and the largest difference of their logits.
"""

import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from transformers import MPNetConfig

from radzero.evaluation.benchmark import Benchmark, BenchmarkImage
from radzero.evaluation.models import RadZeroInBenchmark
from radzero.evaluation.run import run_benchmark
from radzero.evaluation.scoring import read_scores
from radzero.images import read_radiograph
from radzero.models.configuration import ConvStemConfig
from radzero.models.processor import RadZeroProcessor
from radzero.models.radzero import RadZeroConfig, RadZeroModel
from radzero.phantom.writing import FilmFormat, write_phantoms
from radzero.prediction.model import RadZero
from radzero.training.config import ModelChoice, ModelSizes
from radzero.training.model_building import build_start
from radzero.training.vocabulary import phantom_words

FILMS, SENTENCES, BATCH = 64, 192, 8


def build() -> RadZero:
    """A small vision encoder beside an MPNet of full size."""
    sizes = ModelSizes(widths=(16, 32, 64), heads=2, text_layers=1)
    small, processor = build_start(ModelChoice(small=sizes, align_layers=1, image_size=224), phantom_words)
    vision = ConvStemConfig(widths=sizes.widths, token_stride=16, image_size=224)
    config = RadZeroConfig(
        vision_config=vision, text_config=MPNetConfig(), align_config=small.config.align_config, image_size=224
    )
    torch.manual_seed(0)
    model = RadZeroModel(config).eval()
    return RadZero(model, RadZeroProcessor(processor.image_processor, processor.tokenizer), name="speed")


@torch.inference_mode()
def as_published(model: RadZero, paths: list[Path], sentences: list[str]) -> np.ndarray:
    """Logits, with every sentence encoded again, alone, for every batch of images."""
    rows = []
    for first in range(0, len(paths), BATCH):
        tokens, _ = model.embed_films([read_radiograph(path) for path in paths[first : first + BATCH]])
        columns = []
        for sentence in sentences:
            words = model.processor.sentences([sentence])
            columns.append(model.model.similarity(tokens, model.model.encode_sentences(**words)).logits)
        rows.append(torch.cat(columns, dim=1))
    return torch.cat(rows).numpy()


def main() -> None:
    words = phantom_words()
    sentences = [f"There is {words[k % len(words)]} {words[(k * 7 + k // 40) % len(words)]}" for k in range(SENTENCES)]
    sentences = [f"{s} {words[k % 31]}" for k, s in enumerate(sentences)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_phantoms(folder / "films", count=FILMS, seed=3, size=256, film_format=FilmFormat.PNG)
        paths = sorted((folder / "films/images").glob("*.png"))
        model = build()
        images = tuple(BenchmarkImage(path.name, path.name, path) for path in paths)
        classes = tuple(str(k) for k in range(len(sentences)))
        truth = np.random.default_rng(0).integers(0, 2, (FILMS, len(sentences))).astype(np.int8)
        benchmark = Benchmark("speed", images, tuple(sentences), classes, tuple(range(len(sentences))), truth)
        model.embed_films([read_radiograph(paths[0])])  # warm
        started = time.perf_counter()
        run = run_benchmark(benchmark, RadZeroInBenchmark(model), folder / "run")
        ours = time.perf_counter() - started
        started = time.perf_counter()
        theirs_logits = as_published(model, paths, sentences)
        theirs = time.perf_counter() - started
        difference = float(np.abs(read_scores(run).logits - theirs_logits).max())
    print(
        json.dumps(
            {
                "films": FILMS,
                "sentences": len(set(sentences)),
                "ours_s": round(ours, 2),
                "reencoding_s": round(theirs, 2),
                "ratio": round(theirs / ours, 1),
                "largest_difference": difference,
            }
        )
    )


if __name__ == "__main__":
    main()
