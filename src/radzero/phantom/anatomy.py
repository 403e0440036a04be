"""Model a chest in centimetres: sample the parameters of a body, and compute the attenuation of its parts.

Coordinates are those of a frontal radiograph as it is displayed: ``x`` in cm to the right of the image, which is the
patient's LEFT, zero on the midline; ``y`` in cm downwards, zero at the lung apex. A side is ``RIGHT`` (x < 0) or
``LEFT`` (x > 0). Only :func:`coordinates` and ``Chest.pixel_cm`` depend on the size of a pixel.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from radzero.phantom.fields import (
    Field,
    Mask,
    NoiseTable,
    distance_to_polyline,
    rounded_edge,
    smoothstep,
    sphere_chord,
)

RIGHT, LEFT = -1, 1
SIDE_SIGN = {"right": RIGHT, "left": LEFT}

SOFT_TISSUE = 0.19  # attenuation per cm of soft tissue at about 70 keV
AERATED_LUNG = 0.26  # density of lung relative to soft tissue


@dataclass
class Body:
    """Parameters of one patient in one exposure; lengths are in cm, angles in radians."""

    projection: str  # "PA" or "AP"
    sex: str  # "F" or "M"
    film_height: float
    film_width: float
    rotation: float  # rotation of the patient in the image plane
    shift_x: float
    shift_y: float  # distance from the top of the image to the lung apex
    half_width: float  # distance from the midline to the inner chest wall, at its widest
    wall: float  # thickness of the chest wall
    depth: float  # thickness of the chest, front to back
    dome: dict[int, float]  # y of each hemidiaphragm's dome
    drop: float  # distance from the dome to the lateral costophrenic angle
    heart_right: float  # distance from the midline to the right heart border
    heart_left: float  # distance from the midline to the left heart border
    heart_half_height: float
    mediastinum: float  # half width of the upper mediastinum
    shift_mediastinum: float  # shift towards the patient's left
    knob: float  # radius of the aortic knob
    trachea_x: float
    hilum_y: float
    rib_spacing: float
    rib_offset: float
    rib_contrast: float
    clavicle_rise: float
    scapula_inset: float  # how far the scapulae lie over the lungs; large on AP radiographs
    breast: float  # thickness of a breast, 0 in men
    bubble: float  # radius of the gastric air bubble, 0 for none
    markings: float
    lung_density: float  # density relative to soft tissue

    @property
    def cardiothoracic_ratio(self) -> float:
        """Transverse heart diameter divided by the inner chest width."""
        return (self.heart_left + self.heart_right) / (2 * self.half_width)


def sample_body(rng: np.random.Generator) -> Body:
    """Sample a healthy adult on a PA or AP radiograph."""
    projection = "AP" if rng.random() < 0.3 else "PA"
    ap = projection == "AP"
    sex = "F" if rng.random() < 0.48 else "M"
    size = rng.normal(1.0, 0.05) * (0.95 if sex == "F" else 1.02)
    half_width = 13.4 * size * (1.03 if ap else 1.0)
    inspiration = rng.normal(0.0, 0.9) - (1.8 if ap else 0.0)
    dome_right = 20.0 * size + inspiration
    heart = rng.uniform(0.41, 0.48) * (1.03 if ap else 1.0)
    heart_right = rng.uniform(3.4, 4.4) * size
    film_height = rng.uniform(33.5, 37.5) * size
    return Body(
        projection=projection,
        sex=sex,
        film_height=film_height,
        film_width=film_height * (rng.uniform(0.98, 1.15) if ap else rng.uniform(0.92, 1.02)),
        rotation=rng.normal(0.0, np.deg2rad(3.0 if ap else 1.5)),
        shift_x=rng.normal(0.0, 0.8),
        shift_y=rng.uniform(3.2, 5.2),
        half_width=half_width,
        wall=rng.uniform(2.0, 3.6),
        depth=rng.uniform(19.0, 25.0) * size,
        dome={RIGHT: dome_right, LEFT: dome_right + rng.uniform(0.7, 1.8)},
        drop=rng.uniform(3.6, 5.2),
        heart_right=heart_right,
        heart_left=max(2 * half_width * heart - heart_right, heart_right + 1.5),
        heart_half_height=rng.uniform(5.2, 6.2) * size,
        mediastinum=rng.uniform(2.3, 3.0) * (1.12 if ap else 1.0),
        shift_mediastinum=rng.normal(0.0, 0.25),
        knob=rng.uniform(1.3, 1.8),
        trachea_x=rng.normal(0.0, 0.25),
        hilum_y=rng.uniform(9.2, 10.4) * size,
        rib_spacing=rng.uniform(2.25, 2.6) * size,
        rib_offset=rng.uniform(0.0, 1.0),
        rib_contrast=rng.uniform(0.22, 0.34),
        clavicle_rise=rng.uniform(1.0, 2.6) + (0.8 if ap else 0.0),
        scapula_inset=rng.uniform(1.5, 3.5) if ap else rng.uniform(-1.5, 0.8),
        breast=rng.uniform(1.0, 2.8) if sex == "F" else 0.0,
        bubble=rng.uniform(1.2, 2.4) if rng.random() < 0.65 else 0.0,
        markings=rng.uniform(0.8, 1.25),
        lung_density=AERATED_LUNG + rng.normal(0.0, 0.015),
    )


def coordinates(body: Body, shape: tuple[int, int]) -> tuple[Field, Field]:
    """Return the anatomical x and y in cm of every pixel centre of an (H, W) image; each is (H, W)."""
    rows = ((np.arange(shape[0], dtype=np.float32) + 0.5) / shape[0] * body.film_height - body.shift_y)[:, None]
    columns = (((np.arange(shape[1], dtype=np.float32) + 0.5) / shape[1] - 0.5) * body.film_width)[None, :]
    columns = columns - np.float32(body.shift_x)
    pivot = np.float32(12.0)
    c, s = np.float32(np.cos(body.rotation)), np.float32(np.sin(body.rotation))
    x = c * columns + s * (rows - pivot)
    y = -s * columns + c * (rows - pivot) + pivot
    return x.astype(np.float32), y.astype(np.float32)


class Chest:
    """Fields of one body on one pixel grid, each (H, W) float32; findings change them before :meth:`attenuation`.

    Attributes:
        x, y: anatomical coordinates in cm; ``across`` is ``abs(x)``.
        wall_distance: distance in cm from the inner chest wall along its normal, positive inside.
        diaphragm_distance: height in cm above the diaphragm, negative below it.
        lung: thickness of lung in cm, of both sides.
        aeration: factor on the lung's air; 1 is normal, 0 means that fluid or solid tissue replaces the air.
        markings: factor on the vessels; 1 is normal.
        extra: attenuation that findings and devices add.
        heart: thickness of the heart in cm.
    """

    def __init__(self, body: Body, shape: tuple[int, int], rng: np.random.Generator) -> None:
        self.body = body
        self.noise = NoiseTable(rng)
        self.x, self.y = coordinates(body, shape)
        self.pixel_cm = body.film_height / shape[0]
        self.across: Field = np.abs(self.x)
        self.is_left: Mask = self.x > 0
        self._walls()
        self._lungs()
        self._heart()
        self.aeration: Field = np.ones(shape, dtype=np.float32)
        self.markings: Field = np.full(shape, body.markings, dtype=np.float32)
        self.extra: Field = np.zeros(shape, dtype=np.float32)
        self.rib_shift: Field = np.zeros(shape, dtype=np.float32)  # downward displacement of posterior ribs in cm
        self.rib_cut: Field = np.ones(shape, dtype=np.float32)  # factor on the attenuation of posterior ribs

    def _walls(self) -> None:
        body, y = self.body, self.y
        t = np.clip((11.5 - y) / 11.5, 0.0, 1.0)
        inner = body.half_width * np.maximum(1.0 - t**2.5, 0.0) ** (1 / 2.5)
        inner -= 0.035 * np.maximum(y - 15.0, 0.0) ** 1.3  # the flanks narrow a little
        self.inner_wall: Field = np.where(y > 0, inner, 0.0).astype(np.float32)
        slope = np.where(t > 0, body.half_width * t**1.5 / 11.5 / np.maximum(1.0 - t**2.5, 0.02) ** 0.6, 0.0)
        self.wall_distance: Field = ((self.inner_wall - self.across) / np.sqrt(1.0 + slope**2)).astype(np.float32)

    def diaphragm(self, across: Field, side: int) -> Field:
        """Return y in cm of one hemidiaphragm at ``across`` cm from the midline."""
        body = self.body
        crest = 0.45 * body.half_width
        t = (across - crest) / (body.half_width - crest)
        return (body.dome[side] + body.drop * np.where(t > 0, t * t, 0.18 * t * t)).astype(np.float32)

    def _lungs(self) -> None:
        body = self.body
        dome = np.where(self.is_left, self.diaphragm(self.across, LEFT), self.diaphragm(self.across, RIGHT))
        self.diaphragm_distance: Field = (dome - self.y).astype(np.float32)
        medial = self.across - 1.2
        profile = np.sqrt(np.maximum(1.0 - (self.across / (body.half_width + 1.5)) ** 2, 0.0))
        self.lung: Field = (
            0.78
            * body.depth
            * profile
            * rounded_edge(self.wall_distance, 4.0)
            * rounded_edge(self.diaphragm_distance, 1.4)
            * rounded_edge(medial, 2.0)
        ).astype(np.float32)
        # the posterior recess holds a little lung behind the dome
        recess = smoothstep(-3.5, 0.0, self.diaphragm_distance) * rounded_edge(self.wall_distance, 3.0)
        self.recess: Field = (1.6 * recess * (self.diaphragm_distance < 0) * (medial > 0)).astype(np.float32)
        self.lung_mask: Mask = (self.wall_distance > 0.0) & (self.diaphragm_distance > 0.0)

    def _heart(self) -> None:
        body = self.body
        floor = 0.5 * (body.dome[RIGHT] + body.dome[LEFT])
        cy = floor + 1.0 - 0.80 * body.heart_half_height
        cx = body.shift_mediastinum + 0.5 * (body.heart_left - body.heart_right)
        x, y = self.x - cx, self.y - cy
        tilt = np.float32(0.35)
        u = np.cos(tilt) * x + np.sin(tilt) * y
        v = -np.sin(tilt) * x + np.cos(tilt) * y
        half = 0.5 * (body.heart_left + body.heart_right)
        # the heart is a tilted ellipse whose horizontal extent is kept at `half`
        b = body.heart_half_height
        a = np.sqrt(max((half**2 - (np.sin(tilt) * b) ** 2) / np.cos(tilt) ** 2, 4.0))
        r2 = (u / a) ** 2 + (v / b) ** 2
        self.heart_r: Field = np.sqrt(r2).astype(np.float32)
        self.heart: Field = (9.5 * np.sqrt(np.maximum(1.0 - r2, 0.0)) ** 0.8).astype(np.float32)
        # above the heart, the silhouette shows the SVC on the right, aortic knob and pulmonary trunk on the left
        xm = self.x - body.shift_mediastinum
        flare = 0.02 * np.maximum(self.y - 3.0, 0.0)
        edge_right = body.mediastinum + flare + xm
        edge_left = body.mediastinum - 0.5 + flare - xm
        band = rounded_edge(np.minimum(edge_right, edge_left), 1.8) * smoothstep(-2.0, 1.0, self.y)
        knob = sphere_chord(np.hypot(xm - 2.4, self.y - 6.2), body.knob)
        trunk = sphere_chord(np.hypot(xm - 2.6, self.y - body.hilum_y + 0.6), 1.7)
        self.mediastinum: Field = np.maximum(np.maximum(9.0 * band, 2.4 * knob), 2.0 * trunk).astype(np.float32)

    # -- attenuation -------------------------------------------------------------------------------

    def attenuation(self) -> Field:
        """Return the line integral (H, W) of attenuation through the whole chest; it is dimensionless, and 0 in air."""
        body = self.body
        total = SOFT_TISSUE * self._soft_tissue()
        air = (1.0 - body.lung_density) * self.aeration
        solid = np.minimum(np.maximum(self.heart, self.mediastinum), 0.92 * self.lung)
        inflated = np.maximum(self.lung - solid, 0.0) + self.recess
        total -= SOFT_TISSUE * air * inflated
        self._add_vessels(total, inflated)
        total += self._airways() + self._bones() + self.extra
        return np.maximum(total, 0.0).astype(np.float32)

    def _soft_tissue(self) -> Field:
        """Return the thickness of the patient in cm, with the lungs counted as solid."""
        body, x, y = self.body, self.x, self.y
        neck = 5.6 + 0.02 * y * y
        shoulder = 19.5 + 0.8 * (y - 1.0)
        upper = neck + (shoulder - neck) * smoothstep(-4.8, 0.5, y)
        trunk = body.half_width + body.wall + 0.02 * np.maximum(y - 16, 0.0) ** 2
        outer = upper + (trunk - upper) * smoothstep(4.5, 9.5, y)
        depth = body.depth * (0.62 + 0.38 * smoothstep(-4.0, 6.0, y))
        thickness: Any = depth * np.sqrt(np.maximum(1.0 - (x / outer) ** 2, 0.0)) ** 0.75
        if body.breast > 0:
            for side in (RIGHT, LEFT):
                u = (x - side * 0.56 * body.half_width) / 6.0
                v = (y - 16.3) / np.where(y > 16.3, 4.6, 6.5)
                thickness = thickness + body.breast * np.maximum(1.0 - u * u - v * v, 0.0) ** 0.4
        if body.bubble > 0:
            distance = np.hypot((x - 0.36 * body.half_width) / 1.5, y - body.dome[LEFT] - 0.8 - body.bubble)
            thickness = thickness - 1.5 * sphere_chord(distance, body.bubble)
        return thickness.astype(np.float32)

    def _add_vessels(self, total: Field, inflated: Field) -> None:
        """Add branching markings that radiate from the hila and taper; they are ridged noise in polar coordinates."""
        body = self.body
        where = np.flatnonzero(inflated > 0.05)
        left = self.is_left.ravel()[where]
        hilum_y = np.where(left, np.float32(body.hilum_y - 0.6), np.float32(body.hilum_y + 0.4))
        dx = self.across.ravel()[where] - np.float32(2.6)
        dy = self.y.ravel()[where] - hilum_y
        radius = np.hypot(dx, np.float32(0.85) * dy) + np.float32(0.3)
        angle = np.arctan2(dy, dx) * np.float32(3.0) + np.where(left, np.float32(20.0), np.float32(0.0))
        depth = np.log2(radius)
        angle += np.float32(0.35) * self.noise(angle * np.float32(0.9), radius * np.float32(0.35))
        branches = np.zeros_like(angle)
        for octave, start in enumerate((1.0, 2.3, 3.3)):
            n = self.noise(
                angle * np.float32(2**octave) + np.float32(7 * octave), depth * np.float32(1.6) + 31 * octave
            )
            ridge = np.maximum(1.0 - np.abs(n) * np.float32(2.8 + octave), 0.0)
            branches += ridge * np.exp((depth - np.float32(start)) ** 2 / np.float32(-0.9))
        hilum = np.float32(0.35) * np.exp(
            -((dx - np.float32(0.6)) ** 2 + (np.float32(0.6) * dy) ** 2) / np.float32(2.2)
        )
        vessels = np.float32(0.42) * branches * np.exp(radius / np.float32(-10.0)) + hilum
        vessels *= self.markings.ravel()[where] * np.sqrt(np.clip(inflated.ravel()[where] / 8.0, 0.0, 1.0))
        total.ravel()[where] += vessels

    def _airways(self) -> Field:
        """Return the (negative) attenuation of trachea and main bronchi, whose air darkens the mediastinum."""
        body = self.body
        x = self.x - body.trachea_x - 0.6 * body.shift_mediastinum
        trachea = sphere_chord(x, 0.85) * smoothstep(8.6, 7.6, self.y)
        bronchi = np.zeros_like(x)
        near = np.flatnonzero((np.abs(x) < 4.2) & (self.y > 6.5) & (self.y < 10.8))
        for end in ((-2.4, 9.8), (3.4, 9.8)):
            distance = distance_to_polyline(x.ravel()[near], self.y.ravel()[near], [(0.0, 7.6), end])
            bronchi.ravel()[near] = np.maximum(bronchi.ravel()[near], sphere_chord(distance, 0.6))
        return (-SOFT_TISSUE * 0.8 * np.maximum(trachea, bronchi)).astype(np.float32)

    def _bones(self) -> Field:
        return self._spine() + self._ribs() + self._shoulder_girdle()

    def _spine(self) -> Field:
        body = self.body
        column = rounded_edge(1.75 - self.across, 0.9)
        phase = np.mod(self.y / (0.92 * body.rib_spacing) + body.rib_offset, 1.0)
        disc = np.exp(-(((phase - 0.5) / 0.12) ** 2))
        pedicle = np.exp(-((self.across - 1.1) ** 2 / 0.08 + ((phase - 0.0) ** 2) / 0.02))
        process = np.exp(-(self.across**2 / 0.12 + (phase - 0.25) ** 2 / 0.02))
        return (column * (0.27 - 0.11 * disc) + 0.09 * (pedicle + process)).astype(np.float32)

    def rib_line(self, number: float, across: Field) -> Field:
        """Return y in cm of the centre of a posterior rib at ``across`` cm from the midline."""
        body = self.body
        t = across / body.half_width
        return ((number + body.rib_offset) * body.rib_spacing + 1.6 * t - 2.6 * t + 4.6 * t**3).astype(np.float32)

    def rib_phase(self) -> Field:
        """Return the posterior rib number as a continuous field, which is whole on a rib's centre line."""
        offset = self.rib_line(0.0, self.across)
        return ((self.y - self.rib_shift - offset) / self.body.rib_spacing).astype(np.float32)

    def _ribs(self) -> Field:
        body = self.body
        phase = self.rib_phase()
        number = np.round(phase)
        t = np.abs(phase - number) * body.rib_spacing / 0.62  # half a rib is 0.62 cm high
        tube = np.sqrt(np.maximum(1.0 - t * t, 0.0))
        cortex = np.exp(-(((t - 0.85) / 0.22) ** 2))
        extent = smoothstep(-0.9, 0.1, self.wall_distance) * (self.across > 1.2) * (number >= 0) * (number <= 9)
        extent = extent * (0.35 + 0.65 * smoothstep(-1.0, 1.0, self.diaphragm_distance))
        posterior = (0.75 * tube + 0.55 * cortex) * extent * self.rib_cut
        # anterior ribs are fainter, slope down towards the midline and end at the costochondral junction
        q = (self.y - 5.2 - 0.62 * (body.half_width - self.across)) / (1.12 * body.rib_spacing) + body.rib_offset
        ta = np.abs(q - np.round(q)) * 1.12 * body.rib_spacing / 0.75
        anterior = np.sqrt(np.maximum(1.0 - ta * ta, 0.0)) * smoothstep(0.42, 0.55, self.across / body.half_width)
        anterior = anterior * smoothstep(-0.6, 0.3, self.wall_distance) * (np.round(q) >= 0) * (np.round(q) <= 6)
        return (body.rib_contrast * (posterior + 0.5 * anterior)).astype(np.float32)

    def _shoulder_girdle(self) -> Field:
        body = self.body
        t = np.clip((self.across - 1.6) / (0.98 * body.half_width - 1.6), 0.0, 1.15)
        line = 3.0 - body.clavicle_rise * t + 0.9 * np.sin(np.pi * 1.6 * t) * t
        half = 0.62 + 0.25 * np.exp(-(((t - 0.02) / 0.08) ** 2))
        u = np.abs(self.y - line) / half
        clavicle = (np.sqrt(np.maximum(1.0 - u * u, 0.0)) * 0.75 + 0.5 * np.exp(-(((u - 0.85) / 0.25) ** 2))) * (
            (self.across > 1.6) & (t < 1.15)
        )
        edge = self.across - (body.half_width - body.scapula_inset) - 0.32 * (self.y - 6.0)
        scapula = smoothstep(-0.25, 0.25, edge) * smoothstep(0.0, 2.0, self.y) * smoothstep(12.5, 11.0, self.y)
        margin = np.exp(-((edge / 0.3) ** 2)) * smoothstep(0.0, 2.0, self.y) * smoothstep(12.5, 11.0, self.y)
        head = 0.9 * sphere_chord(np.hypot(self.across - body.half_width - 4.6, self.y - 1.0), 2.6) / 5.2
        return (0.30 * clavicle + 0.16 * scapula + 0.10 * margin + 0.55 * head).astype(np.float32)
