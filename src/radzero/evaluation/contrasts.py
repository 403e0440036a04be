"""Add pairs of sentences of which one is true: a finding and its negation, its right and its left side.

A model that only counts words passes the published benchmarks, but not these pairs. They cost nothing but more
sentences.
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from radzero.evaluation.benchmark import Benchmark, Contrast, Region

_AFFIRMED, _DENIED = "There is ", "There is no "


def with_contrasts(benchmark: Benchmark) -> Benchmark:
    """Return the benchmark with contrary sentences for every class whose prompt is ``There is X``.

    ``There is no X`` is added for each of them, and ``There is right X`` and ``There is left X`` for those that some
    image shows on one side only.
    """
    sentences = {sentence: k for k, sentence in enumerate(benchmark.sentences)}
    sides = one_sided(benchmark) if benchmark.sides is None else benchmark.sides
    contrasts: dict[str, Contrast] = {}
    for column, label in enumerate(benchmark.classes):
        prompt = benchmark.sentences[benchmark.prompts[column]]
        if prompt.startswith(_AFFIRMED):
            words = prompt.removeprefix(_AFFIRMED)
            wanted = [_DENIED + words]
            if (sides[:, column] != "").any():
                wanted += [f"{_AFFIRMED}right {words}", f"{_AFFIRMED}left {words}"]
            contrasts[label] = Contrast(*(sentences.setdefault(sentence, len(sentences)) for sentence in wanted))
    return replace(benchmark, sentences=tuple(sentences), sides=sides, contrasts=contrasts)


def one_sided(benchmark: Benchmark) -> npt.NDArray[np.str_]:
    """Return an (M, K) array: "right" or "left" where all boxes of a class lie in one half of an image, else "".

    Images count as frontal: the patient's right is on the left of the image. An image whose size the benchmark does not
    state has no side.
    """
    sides = np.full((len(benchmark.images), len(benchmark.classes)), "", dtype="<U5")
    found: dict[tuple[int, int], list[Region]] = {}
    columns = {label: k for k, label in enumerate(benchmark.classes)}
    for region in benchmark.regions:
        if region.label in columns and region.boxes:
            found.setdefault((region.image, columns[region.label]), []).append(region)
    for (image, column), regions in found.items():
        if all(r.frame and all(x1 <= r.frame[1] / 2 for _, _, x1, _ in r.boxes) for r in regions):
            sides[image, column] = "right"
        elif all(r.frame and all(x0 >= r.frame[1] / 2 for x0, _, _, _ in r.boxes) for r in regions):
            sides[image, column] = "left"
    return sides
