"""Make a whole phantom: body, findings, exposure, masks and boxes. It is deterministic in (seed, index)."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from radzero.phantom.anatomy import Body, Chest, sample_body
from radzero.phantom.detector import Exposure, expose, sample_exposure
from radzero.phantom.fields import Field, Mask
from radzero.phantom.findings import DRAWING_ORDER, FINDINGS, Finding, alter_body, draw, sample_findings

BOX_MARGIN_CM = 0.6
"""Margin in cm between the mask's extent and the box, as a radiologist draws boxes a little outside the finding."""

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Evidence:
    """One finding or device, and where it shows on the image.

    Attributes:
        finding: name, place and grade of the finding.
        mask: (H, W) mask of the pixels to which a radiologist would point.
        boxes: boxes x0, y0, x1, y1 in pixels, at pixel edges (x1 - x0 is a width): one, or one per side for a finding
            on both sides.
    """

    finding: Finding
    mask: Mask
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class Film:
    """A synthetic radiograph and everything that is known of it.

    Attributes:
        seed, index: seed of the series and index in it, from which the phantom was made.
        pixels: (H, W) float32 display values in 0..1.
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
        """Whether the image shows no finding (devices do not count)."""
        return not any(f.name in FINDINGS for f in self.findings)

    def to_uint8(self) -> npt.NDArray[np.uint8]:
        """Return the pixels as 8-bit values (H, W)."""
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
        seed: seed of the series.
        index: index of the phantom in the series; the phantoms of one series are independent.
        size: height in pixels; the width follows from the phantom's own aspect ratio.
        shape: (H, W) in pixels, used instead of ``size``; the image is squashed to it, as a squashing preprocessor
            would do.
        findings: findings to draw instead of sampled ones; body, exposure and noise stay those of (seed, index), so
            that an image with and one without a finding can be compared.

    Raises:
        ValueError: when seed or index is negative, or a side has fewer than 64 pixels.
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
    """Return masks (H, W) of the regions that a sentence can name."""
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
    """Return one box around the mask, or one per side for a finding on both sides."""
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
