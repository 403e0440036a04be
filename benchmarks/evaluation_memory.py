"""Peak memory of a segmentation run of many films: it must not grow with their number.

    python benchmarks/evaluation_memory.py 5000      # films of 1024 x 1024 pixels, half of them with a mask

The model is a stand-in whose maps are the films themselves, so that the evaluation is what is measured. Prints a line
of JSON: MiB above the start after the first 64 films and at the end, and seconds.
"""

import json
import resource
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np

from radzero.evaluation.benchmark import Benchmark, BenchmarkImage, Region
from radzero.evaluation.masks import BoxMask
from radzero.evaluation.run import run_benchmark
from radzero.evaluation.scoring import score
from radzero.images import Radiograph

SIDE = 1024


def film(index: int) -> Radiograph:
    """Smooth noise that depends on the index."""
    chance = np.random.default_rng(index)
    coarse = chance.random((32, 32)).astype(np.float32)
    return Radiograph(np.ascontiguousarray(np.kron(coarse, np.ones((32, 32), np.float32))), source=str(index))


class Itself:
    """Its map is the film."""

    name, sha256 = "itself", ""

    def embed_sentences(self, sentences):
        return sentences

    def embed_images(self, films):
        return films

    def logits(self, images, sentences):
        return np.array([[one.pixels.mean()] for one in images], dtype=np.float32)

    def raw_map(self, images, sentences, film, sentence):
        return (images[film].pixels - 0.5) * 8


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    count = int(sys.argv[1])
    images = tuple(BenchmarkImage(str(k), str(k), None, partial(film, k)) for k in range(count))
    truth = (np.arange(count) % 2).astype(np.int8)[:, None]
    regions = tuple(
        Region(k, 0, "x", ((100.0, 200.0, 400.0, 600.0),), BoxMask(((100.0, 200.0, 400.0, 600.0),)), (SIDE, SIDE))
        for k in range(1, count, 2)
    )
    benchmark = Benchmark(
        "memory", images, ("There is x",), ("x",), (0,), truth, regions, ("classification", "pointing", "segmentation")
    )
    before, early, started = peak(), [0.0], time.perf_counter()

    def note(done: int) -> None:
        if done == 64:
            early[0] = peak() - before

    with tempfile.TemporaryDirectory() as folder:
        run_benchmark(benchmark, Itself(), Path(folder) / "run", progress=note)
        metrics = score(Path(folder) / "run")
    print(
        json.dumps(
            {
                "films": count,
                "mib_after_64": round(early[0]),
                "mib_at_the_end": round(peak() - before),
                "seconds": round(time.perf_counter() - started, 1),
                "dice": metrics["segmentation"]["Dice"],
            }
        )
    )


if __name__ == "__main__":
    main()
