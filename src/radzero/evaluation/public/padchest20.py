"""PadChest20: classification of the rare labels of PadChest, those with at most ten positives."""

from pathlib import Path

from radzero.evaluation.benchmark import Benchmark
from radzero.evaluation.public import padchest

NAME = "padchest20"
SOURCE, LAYOUT = padchest.SOURCE, padchest.LAYOUT
PUBLISHED = {"images": 39_053, "classes": 20}
FINDINGS: tuple[str, ...] = ()


def read(data: Path) -> Benchmark:
    """Read the benchmark's files."""
    return padchest.of_classes(NAME, data, lambda positives: positives <= 10)
