"""The public benchmarks, a file each: where the files come from, how they are laid out, prompts and labels."""

from typing import cast

from radzero.evaluation.benchmark import BenchmarkModule
from radzero.evaluation.public import (
    anatomy,
    chestxdet10,
    chestxray14,
    chexpert,
    mscxr,
    openi,
    padchest,
    padchest20,
    phantom,
    rsna,
    siim,
)

PUBLIC: dict[str, BenchmarkModule] = {
    module.NAME: cast(BenchmarkModule, module)
    for module in (
        openi,
        padchest,
        padchest20,
        chestxray14,
        chexpert,
        chestxdet10,
        mscxr,
        siim,
        rsna,
        phantom,
        anatomy,
    )
}
"""By name, in the order of the published tables."""
