"""The benchmarks: one registry, light to import, from which verbs, help, tables and finding sets are derived.

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
        name: of the verb ``radzero evaluate NAME``, and of the module in :mod:`radzero.evaluation.public`.
        title: as tables call it.
    """

    name: str
    title: str

    @property
    def module(self) -> "BenchmarkModule":
        """The benchmark's module, imported when first needed."""
        return cast("BenchmarkModule", import_module(f"radzero.evaluation.public.{self.name}"))


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
"""By name, in the order of the published tables."""


def title_of(name: str) -> str:
    """The title of a benchmark; its name where it is none of the registry's."""
    return BENCHMARKS[name].title if name in BENCHMARKS else name
