"""List the benchmarks in one registry, cheap to import, from which verbs, help, tables and finding sets are derived.

To add a benchmark, write its module in :mod:`radzero.evaluation.public` (see
:class:`~radzero.evaluation.benchmark.BenchmarkModule`) and add a row.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from radzero.evaluation.benchmark import BenchmarkModule


@dataclass(frozen=True)
class BenchmarkSpec:
    """A row of the registry.

    Attributes:
        name: name of the verb ``radzero evaluate NAME``, and, with ``_`` for ``-``, of the module in
            :mod:`radzero.evaluation.public`.
        title: name of the benchmark in tables.
    """

    name: str
    title: str

    @property
    def module(self) -> "BenchmarkModule":
        """Module of the benchmark, imported when first needed."""
        return cast("BenchmarkModule", import_module(f"radzero.evaluation.public.{self.name.replace('-', '_')}"))


BENCHMARKS = {
    spec.name: spec
    for spec in (
        BenchmarkSpec("openi", "Open-I"),
        BenchmarkSpec("padchest", "PadChest"),
        BenchmarkSpec("padchest20", "PadChest20"),
        BenchmarkSpec("chestxray14", "NIH ChestX-ray14"),
        BenchmarkSpec("chexpert", "CheXpert"),
        BenchmarkSpec("chestxdet10", "ChestX-Det10"),
        BenchmarkSpec("mscxr", "MS-CXR"),
        BenchmarkSpec("siim", "SIIM-ACR Pneumothorax"),
        BenchmarkSpec("rsna", "RSNA Pneumonia"),
        BenchmarkSpec("phantom", "Phantoms"),
        BenchmarkSpec("anatomy", "Anatomy"),
    )
}
"""Benchmarks by name, in the order of the published tables."""


def title_of(name: str) -> str:
    """Return the title of a benchmark, or the name itself where the registry does not have it."""
    return BENCHMARKS[name].title if name in BENCHMARKS else name
