"""A whole phantom: body, findings, exposure, masks and boxes; deterministic in (seed, index)."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from radzero.phantom.anatomy import Body, Chest, sample_body
from radzero.phantom.detector import Exposure, expose, sample_exposure
from radzero.phantom.fields import Field, Mask
from radzero.phantom.findings import DRAWING_ORDER, FINDINGS, Finding, alter_body, draw, sample_findings

BOX_MARGIN_CM = 0.6
"""Boxes are the mask's extent plus this margin, as a radiologist draws them a little outside the finding."""

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Evidence:
    """One finding as it lies on the film.

    Attributes:
        finding: what, where, how plain.
        mask: (H, W) pixels to which a radiologist would point.
        boxes: x0, y0, x1, y1 in pixels, pixel edges (x1 - x0 is a width), one per side.
    """

    finding: Finding
    mask: Mask
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class Film:
    """A synthetic radiograph and everything that is known of it.

    Attributes:
        seed, index: what it was made from.
        pixels: (H, W) float32 in 0..1, as displayed.
        pixel_mm: height and width of a pixel in mm.
        body, exposure: the sampled parameters.
        evidence: findings and devices with masks and boxes.
        anatomy: region name -> (H, W) mask.
    """

    seed: int
    index: int
    pixels: Field
    pixel_mm: tuple[float, float]
    body: Body
    exposure: Exposure
    evidence: tuple[Evidence, ...]
    anatomy: dict[str, Mask] = field(repr=False)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Findings and devices, in drawing order."""
        return tuple(e.finding for e in self.evidence)

    @property
    def is_normal(self) -> bool:
        """Whether the film shows no finding (devices do not count)."""
        return not any(f.name in FINDINGS for f in self.findings)

    def to_uint8(self) -> npt.NDArray[np.uint8]:
        """(H, W) 8-bit pixels."""
        return np.round(self.pixels * 255.0).astype(np.uint8)


def make_film(
    seed: int,
    index: int,
    *,
    size: int = 512,
    shape: tuple[int, int] | None = None,
    findings: tuple[Finding, ...] | None = None,
) -> Film:
    """Make phantom ``index`` of ``seed``.

    Args:
        seed: of the series.
        index: of the film in the series; films of one series are independent.
        size: height in pixels; the width follows the film's own format.
        shape: (H, W) instead, squashing the film to it as a squashing preprocessor would.
        findings: draw these instead of sampled ones; body, exposure and noise stay those of (seed, index), so that
            a film with and one without a finding can be compared.

    Raises:
        ValueError: for a negative seed or index, or a size under 64 pixels.
    """
    if seed < 0 or index < 0:
        raise ValueError(f"seed and index must not be negative: {seed}, {index}")
    body_rng, finding_rng, exposure_rng, noise_rng, texture_rng, plan_rng = (
        np.random.Generator(np.random.PCG64(s)) for s in np.random.SeedSequence([seed, index]).spawn(6)
    )
    body, exposure = sample_body(body_rng), sample_exposure(exposure_rng)
    planned = sample_findings(plan_rng) if findings is None else findings
    planned = tuple(sorted(planned, key=lambda f: DRAWING_ORDER.index(f.name)))
    for finding in planned:
        body = alter_body(body, finding, finding_rng)
    height, width = shape or (size, round(size * body.film_width / body.film_height))
    if min(height, width) < 64:
        raise ValueError(f"a phantom needs at least 64 pixels a side: {height} x {width}")
    chest = Chest(body, (height, width), texture_rng)
    pixel_width_cm = body.film_width / width
    evidence = []
    for finding in planned:
        mask = draw(chest, finding, finding_rng)
        boxes = _boxes(mask, chest, finding, (BOX_MARGIN_CM / pixel_width_cm, BOX_MARGIN_CM / chest.pixel_cm))
        evidence.append(Evidence(finding, mask, boxes))
    pixels = expose(
        chest.attenuation(),
        exposure,
        pixel_cm=chest.pixel_cm,
        film_width=body.film_width,
        projection=body.projection,
        rng=noise_rng,
    )
    return Film(
        seed,
        index,
        pixels,
        (chest.pixel_cm * 10, pixel_width_cm * 10),
        body,
        exposure,
        tuple(evidence),
        anatomy_masks(chest),
    )


def anatomy_masks(chest: Chest) -> dict[str, Mask]:
    """Masks (H, W) of the regions that a sentence can name."""
    lungs = chest.lung_mask & (chest.across > chest.body.mediastinum) & (chest.heart_r > 1.0)
    heart = (chest.heart_r < 1.0) & (chest.diaphragm_distance > -1.0)
    mediastinum = (chest.mediastinum > 1.0) & (chest.y > 0) & (chest.diaphragm_distance > 0) & ~heart
    diaphragm = (np.abs(chest.diaphragm_distance) < 0.5) & (chest.wall_distance > 0) & (chest.across > 1.2)
    return {
        "right lung": lungs & ~chest.is_left,
        "left lung": lungs & chest.is_left,
        "heart": heart,
        "mediastinum": mediastinum,
        "right diaphragm": diaphragm & ~chest.is_left,
        "left diaphragm": diaphragm & chest.is_left,
    }


def _boxes(mask: Mask, chest: Chest, finding: Finding, margin: tuple[float, float]) -> tuple[Box, ...]:
    """One box around the mask, or one per side for what is on both sides."""
    two_sided = finding.side == "bilateral" or finding.name in ("pulmonary edema", "emphysema")
    parts = [mask & chest.is_left, mask & ~chest.is_left] if two_sided else [mask]
    boxes: list[Box] = []
    for part in parts:
        rows, columns = np.flatnonzero(part.any(axis=1)), np.flatnonzero(part.any(axis=0))
        if len(rows):
            boxes.append(
                (
                    float(max(columns[0] - margin[0], 0.0)),
                    float(max(rows[0] - margin[1], 0.0)),
                    float(min(columns[-1] + 1 + margin[0], mask.shape[1])),
                    float(min(rows[-1] + 1 + margin[1], mask.shape[0])),
                )
            )
    return tuple(boxes)
