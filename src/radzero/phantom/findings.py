"""Draw findings and devices on a :class:`~radzero.phantom.anatomy.Chest`, each by its physical sign.

A :class:`Finding` states what is drawn, where, and how plainly. :func:`alter_body` changes the anatomy (heart size,
volume loss); :func:`draw` changes the fields and returns the mask of the evidence: the pixels to which a radiologist
would point. Lengths are in cm.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from radzero.phantom.anatomy import LEFT, RIGHT, SIDE_SIGN, SOFT_TISSUE, Body, Chest
from radzero.phantom.fields import Mask, distance_to_polyline, smoothstep, sphere_chord


class Grade(StrEnum):
    """How plainly a finding shows."""

    PLAIN = "plain"
    MODERATE = "moderate"
    SUBTLE = "subtle"


FINDINGS = (
    "atelectasis",
    "calcification",
    "cardiomegaly",
    "consolidation",
    "pulmonary edema",
    "emphysema",
    "fibrosis",
    "mass",
    "nodule",
    "pleural effusion",
    "pneumothorax",
    "rib fracture",
)
DEVICES = ("central venous catheter", "endotracheal tube", "nasogastric tube", "pacemaker")

ONE_SIDED = ("calcification", "consolidation", "mass", "nodule", "pneumothorax", "rib fracture")
EITHER_OR_BOTH = ("atelectasis", "fibrosis", "pleural effusion")
_SIDES_OF: dict[str, tuple[str | None, ...]] = {
    **dict.fromkeys((*ONE_SIDED, "central venous catheter", "pacemaker"), ("right", "left")),
    **dict.fromkeys(EITHER_OR_BOTH, ("right", "left", "bilateral")),
}
ZONED = ("calcification", "consolidation", "mass", "nodule")
ZONES = ("upper", "mid", "lower")
EXCLUSIVE = (
    frozenset({"emphysema", "pulmonary edema"}),
    frozenset({"emphysema", "fibrosis"}),
    frozenset({"pulmonary edema", "fibrosis"}),
)


@dataclass(frozen=True)
class Finding:
    """One finding or device of a phantom.

    Attributes:
        name: one of :data:`FINDINGS` or :data:`DEVICES`.
        grade: how plainly it shows.
        side: "right", "left" or "bilateral"; None for a finding that has no side (cardiomegaly, edema, emphysema,
            tubes).
        zone: "upper", "mid" or "lower"; None for a finding that has no zone.

    Raises:
        ValueError: when the name is none of these, or cannot have the side or zone.
    """

    name: str
    grade: Grade = Grade.PLAIN
    side: str | None = None
    zone: str | None = None

    def __post_init__(self) -> None:
        if self.name not in (*FINDINGS, *DEVICES):
            known = ", ".join((*FINDINGS, *DEVICES))
            raise ValueError(f"no finding or device is called {self.name!r}; there are: {known}")
        if self.side not in _SIDES_OF.get(self.name, (None,)):
            raise ValueError(f"{self.name}: the side cannot be {self.side!r}")
        if self.zone not in (ZONES if self.name in ZONED else (None,)):
            raise ValueError(f"{self.name}: the zone cannot be {self.zone!r}")

    @property
    def sides(self) -> tuple[int, ...]:
        """Sides that the finding is on: ``RIGHT``, ``LEFT`` or both (also both where ``side`` is None)."""
        return (RIGHT, LEFT) if self.side in (None, "bilateral") else (SIDE_SIGN[str(self.side)],)


def sample_findings(rng: np.random.Generator) -> tuple[Finding, ...]:
    """Sample zero to four findings, and devices as distractors, of mixed grades."""
    count = int(rng.choice(5, p=(0.22, 0.32, 0.26, 0.14, 0.06)))
    chosen: list[str] = []
    for name in rng.permutation(FINDINGS):
        if len(chosen) == count:
            break
        if not any({str(name), other} in EXCLUSIVE for other in chosen):
            chosen.append(str(name))
    found = [sample_finding(name, rng) for name in chosen]
    found += [sample_finding(name, rng) for name in DEVICES if rng.random() < 0.09]
    return tuple(found)


def sample_finding(name: str, rng: np.random.Generator, grade: Grade | None = None) -> Finding:
    """Return a finding of the given name, with its side, zone and (unless given) grade sampled."""
    drawn = Grade(str(rng.choice([g.value for g in Grade])))
    side: str | None = None
    if name in ONE_SIDED or name in ("central venous catheter", "pacemaker"):
        side = str(rng.choice(["right", "left"]))
    elif name in EITHER_OR_BOTH:
        side = str(rng.choice(["right", "left", "bilateral"], p=[0.38, 0.38, 0.24]))
    zone = str(rng.choice(ZONES)) if name in ZONED else None
    return Finding(name, grade or drawn, side, zone)


def _by_grade(
    grade: Grade,
    rng: np.random.Generator,
    plain: tuple[float, float],
    moderate: tuple[float, float],
    subtle: tuple[float, float],
) -> float:
    low, high = {Grade.PLAIN: plain, Grade.MODERATE: moderate, Grade.SUBTLE: subtle}[grade]
    return float(rng.uniform(low, high))


# -- what changes the anatomy itself --------------------------------------------------------------


def alter_body(body: Body, finding: Finding, rng: np.random.Generator) -> Body:
    """Return the body as the finding changes it; findings that only add or remove attenuation leave it unchanged."""
    grade = finding.grade
    if finding.name == "cardiomegaly":
        ratio = _by_grade(grade, rng, (0.63, 0.70), (0.585, 0.63), (0.55, 0.585))
        ratio *= 1.03 if body.projection == "AP" else 1.0
        width = ratio * 2 * body.half_width
        right = body.heart_right * rng.uniform(1.05, 1.25)
        return replace(
            body, heart_right=right, heart_left=width - right, heart_half_height=body.heart_half_height * 1.1
        )
    if finding.name == "emphysema":
        down = _by_grade(grade, rng, (2.6, 3.6), (1.8, 2.6), (1.1, 1.8))
        return replace(
            body,
            dome={side: y + down for side, y in body.dome.items()},
            drop=body.drop * _by_grade(grade, rng, (0.25, 0.4), (0.4, 0.55), (0.5, 0.65)),
            heart_left=body.heart_left * rng.uniform(0.86, 1.0),
            lung_density=body.lung_density - _by_grade(grade, rng, (0.09, 0.11), (0.06, 0.09), (0.04, 0.06)),
            markings=body.markings * _by_grade(grade, rng, (0.25, 0.4), (0.4, 0.55), (0.55, 0.7)),
        )
    if finding.name == "atelectasis":
        up = _by_grade(grade, rng, (1.6, 2.6), (1.0, 1.6), (0.5, 1.0))
        dome = {side: y - (up if side in finding.sides else 0.0) for side, y in body.dome.items()}
        pull = sum(finding.sides) * 0.35 * up  # the mediastinum moves towards the collapsed side
        return replace(body, dome=dome, shift_mediastinum=body.shift_mediastinum + pull)
    if finding.name == "fibrosis":
        return replace(body, dome={s: y - (0.7 if s in finding.sides else 0.0) for s, y in body.dome.items()})
    return body


# -- where things can be --------------------------------------------------------------------------


def lung_height(body: Body, side: int) -> float:
    """Return the distance in cm from the apex to the dome of one hemidiaphragm."""
    return body.dome[side]


def zone_centre(chest: Chest, finding: Finding, rng: np.random.Generator, radius: float) -> tuple[float, float]:
    """Sample a centre (x, y) in cm in a visible part of the finding's lung zone, clear of wall, heart and dome.

    The clearance grows with ``radius`` (in cm) up to 2.2 cm. If no such centre is found, return the zone's middle.
    """
    body, side = chest.body, finding.sides[0]
    height = lung_height(body, side)
    low, high = {"upper": (0.17, 0.36), "mid": (0.40, 0.62), "lower": (0.66, 0.90)}[str(finding.zone)]
    inset = min(radius, 2.2)
    for _ in range(60):
        y = rng.uniform(low, high) * height
        t = max(11.5 - y, 0.0) / 11.5
        wall = body.half_width * (1 - t**2.5) ** 0.4
        heart = body.heart_left if side == LEFT else body.heart_right
        medial = body.mediastinum + 1.2 + (heart - body.mediastinum - 0.6) * np.clip((y - 0.45 * height) / 4.0, 0, 1)
        if wall - inset - 0.8 <= medial + 0.5 * inset:
            continue
        across = rng.uniform(medial + 0.5 * inset, wall - inset - 0.8)
        dome = float(chest.diaphragm(np.array(across, dtype=np.float32), side))
        if y + 0.7 * inset + 0.5 < dome:
            return side * across, y
    return side * 0.62 * body.half_width, (low + high) / 2 * height


# -- drawing --------------------------------------------------------------------------------------


def draw(chest: Chest, finding: Finding, rng: np.random.Generator) -> Mask:
    """Draw one finding or device; return the (H, W) mask of its evidence."""
    return _DRAW[finding.name](chest, finding, rng)


def _side_mask(chest: Chest, side: int) -> Mask:
    return chest.is_left if side == LEFT else ~chest.is_left


def _cardiomegaly(chest: Chest, finding: Finding, rng: np.random.Generator) -> Mask:
    return (chest.heart_r < 1.0) & (chest.diaphragm_distance > -1.0)


def _effusion(chest: Chest, finding: Finding, rng: np.random.Generator) -> Mask:
    mask = np.zeros(chest.x.shape, dtype=bool)
    body = chest.body
    for side in finding.sides:
        level = _by_grade(finding.grade, rng, (6.5, 10.5), (4.0, 6.0), (2.7, 3.7))
        corner = body.dome[side] + body.drop  # y of the costophrenic angle
        rise = rng.uniform(1.5, 2.5) + 0.1 * level
        lateral = np.maximum(chest.wall_distance, 0.0)
        surface = corner - level + rise * (1.0 - np.exp(-lateral / 1.8))  # it is concave and highest at the wall
        surface -= 0.5 * np.exp(-((chest.across - body.mediastinum) ** 2) / 2.0)
        here = _side_mask(chest, side) & (chest.wall_distance > -0.1)
        fluid = smoothstep(-0.45, 0.75, (chest.y - surface).astype(np.float32)) * here
        chest.aeration = chest.aeration * (1.0 - 0.93 * fluid)
        chest.markings = chest.markings * (1.0 - fluid)
        mask |= here & (fluid > 0.35) & (chest.diaphragm_distance > -0.8) & (chest.heart_r > 0.92)
    return mask


def _pneumothorax(chest: Chest, finding: Finding, rng: np.random.Generator) -> Mask:
    side = finding.sides[0]
    body = chest.body
    gap = _by_grade(finding.grade, rng, (3.2, 5.0), (2.1, 3.2), (1.4, 2.1))
    reach = _by_grade(finding.grade, rng, (0.9, 1.3), (0.7, 0.95), (0.6, 0.8)) * lung_height(body, side)
    taper = np.clip(1.0 - (chest.y / reach) ** 2, 0.0, 1.0)
    wobble = 1.0 + 0.10 * np.sin(chest.y * rng.uniform(0.35, 0.6) + rng.uniform(0, 6))
    line = gap * taper**0.7 * wobble
    inside = _side_mask(chest, side) & chest.lung_mask & (taper > 0.02)
    air = inside & (chest.wall_distance < line) & (chest.across > body.mediastinum + 0.5)
    edge = np.exp(-(((chest.wall_distance - line) / 0.14) ** 2)) * inside * (chest.across > body.mediastinum + 0.5)
    chest.markings = chest.markings * np.where(air, 0.0, 1.0)
    chest.aeration = chest.aeration * np.where(air, 1.18, 1.0)
    collapsed = inside & ~air & (chest.wall_distance < line + 6.0)
    chest.aeration = chest.aeration * np.where(collapsed, 1.0 - 0.02 * gap, 1.0)
    # where this line is faint, only the missing markings beyond it show the pneumothorax
    chest.extra += (rng.uniform(0.0, 0.13) * edge).astype(np.float32)
    return (air | (edge > 0.4)).astype(bool)


def _nodule(chest: Chest, finding: Finding, rng: np.random.Generator) -> Mask:
    radius = _by_grade(finding.grade, rng, (1.1, 1.45), (0.9, 1.15), (0.8, 0.95))
    density = _by_grade(finding.grade, rng, (1.1, 1.3), (1.0, 1.15), (0.85, 1.0))
    return _ball(chest, finding, rng, radius, density, lobes=0.05)


def _mass(chest: Chest, finding: Finding, rng: np.random.Generator) -> Mask:
    radius = _by_grade(finding.grade, rng, (2.4, 3.2), (1.9, 2.5), (1.6, 2.0))
    density = _by_grade(finding.grade, rng, (0.75, 0.95), (0.55, 0.7), (0.42, 0.52))
    return _ball(chest, finding, rng, radius, density, lobes=0.09)


def _ball(
    chest: Chest, finding: Finding, rng: np.random.Generator, radius: float, density: float, lobes: float
) -> Mask:
    cx, cy = zone_centre(chest, finding, rng, radius)
    dx, dy = chest.x - cx, chest.y - cy
    angle = np.arctan2(dy, dx)
    border = np.float32(radius) * (
        1.0 + lobes * np.sin(3 * angle + rng.uniform(0, 6)) + 0.6 * lobes * np.sin(5 * angle + rng.uniform(0, 6))
    )
    distance = np.hypot(dx, dy)
    # solid tissue displaces lung, so it adds the attenuation that the lung lacked
    ball = np.minimum(sphere_chord(distance, border), 3.4)
    chest.extra += (SOFT_TISSUE * (1 - chest.body.lung_density) * density * 1.25 * ball).astype(np.float32)
    return (distance < border).astype(bool)


def _consolidation(chest: Chest, finding: Finding, rng: np.random.Generator) -> Mask:
    radius = _by_grade(finding.grade, rng, (3.4, 4.4), (2.8, 3.7), (2.3, 3.0))
    density = _by_grade(finding.grade, rng, (0.60, 0.75), (0.42, 0.55), (0.28, 0.36))
    side = finding.sides[0]
    cx, cy = zone_centre(chest, finding, rng, 1.6)
    dx, dy = chest.x - cx, (chest.y - cy) * rng.uniform(1.0, 1.4)
    a0 = rng.uniform(0, 60)
    ragged = 0.9 * chest.noise(chest.x * 0.55 + a0, chest.y * 0.55) + 0.5 * chest.noise(
        chest.x * 1.3, chest.y * 1.3 + a0
    )
    distance = np.hypot(dx, dy) + 0.75 * ragged
    core = smoothstep(1.15 * radius, 0.35 * radius, distance.astype(np.float32))
    hilum = np.hypot(chest.x - side * 3.0, chest.y - chest.body.hilum_y)
    spokes = np.abs(np.arctan2(chest.y - chest.body.hilum_y, chest.x - side * 3.0) * 6.0 + 0.3 * hilum + a0)
    bronchogram = np.exp(-((np.mod(spokes, 1.0) - 0.5) ** 2) / 0.012) * core
    here = _side_mask(chest, side) & chest.lung_mask
    fill = density * core * (1.0 + 0.18 * ragged) * here
    chest.aeration = chest.aeration * (1.0 - np.clip(fill - 0.2 * density * bronchogram, 0.0, 0.95)).astype(np.float32)
    chest.markings = chest.markings * (1.0 - 0.6 * core)
    return (here & (core > 0.35)).astype(bool)


def _atelectasis(chest: Chest, finding: Finding, rng: np.random.Generator) -> Mask:
    mask = np.zeros(chest.x.shape, dtype=bool)
    body = chest.body
    for side in finding.sides:
        strength = _by_grade(finding.grade, rng, (0.34, 0.44), (0.25, 0.34), (0.17, 0.24))
        plates = int(_by_grade(finding.grade, rng, (2, 3.99), (1, 2.99), (1, 1.99)))
        here = _side_mask(chest, side) & (chest.diaphragm_distance > 0.1) & (chest.wall_distance > 0.2)
        base = body.dome[side]
        haze = np.exp(-np.maximum(chest.diaphragm_distance, 0.0) / 1.3) * here * 0.22 * strength
        chest.extra += haze.astype(np.float32)
        heart = body.heart_left if side == LEFT else body.heart_right
        shown = np.zeros_like(mask)
        for n in range(plates):
            y0 = base - 1.5 - 1.6 * n - rng.uniform(0.0, 0.8)
            tilt = rng.uniform(-0.12, 0.32)
            bow = rng.uniform(-0.02, 0.02)
            start = heart + rng.uniform(-0.3, 0.8)
            length = rng.uniform(4.0, 6.5)
            u = chest.across - start
            offset = chest.y - (y0 + tilt * u + bow * u * u)
            thick = rng.uniform(0.28, 0.5)
            along = smoothstep(-0.3, 0.6, u) * smoothstep(length + 0.6, length - 0.6, u)
            plate = np.exp(-((offset / thick) ** 2)) * along * here
            chest.extra += (strength * plate).astype(np.float32)
            shown |= (np.abs(offset) < 1.6 * thick) & (along > 0.3) & here
        if not shown.any():  # where an enlarged heart hides all plates, one is drawn in the visible lung base
            lateral = here & (chest.y > chest.y[here].max() - 4.0)
            u = chest.across - chest.across[lateral].min()
            offset = chest.y - (chest.y[lateral].max() - 2.0)
            chest.extra += (strength * np.exp(-((offset / 0.4) ** 2)) * smoothstep(-0.3, 0.6, u) * here).astype(
                np.float32
            )
            shown = (np.abs(offset) < 0.64) & (u > 0.0) & here
        mask |= shown
    return mask


def _edema(chest: Chest, finding: Finding, rng: np.random.Generator) -> Mask:
    strength = _by_grade(finding.grade, rng, (0.42, 0.54), (0.31, 0.40), (0.21, 0.28))
    body = chest.body
    mask = np.zeros(chest.x.shape, dtype=bool)
    reach = rng.uniform(4.6, 5.6)
    wings = np.exp(-(((chest.across - 4.4) / reach) ** 2 + ((chest.y - body.hilum_y - 1.2) / (1.25 * reach)) ** 2))
    patchy = 1.0 + 0.28 * chest.noise(chest.x * 0.7 + 11, chest.y * 0.7)
    fill = strength * wings * patchy * chest.lung_mask
    chest.aeration = chest.aeration * (1.0 - np.clip(fill, 0.0, 0.9)).astype(np.float32)
    chest.markings = chest.markings * (1.0 + 1.3 * strength * chest.lung_mask)
    # Kerley B lines are short horizontal lines at the lateral bases
    lines = np.exp(-(((np.mod(chest.y / 0.8, 1.0) - 0.5) / 0.16) ** 2))
    band = smoothstep(0.1, 0.3, chest.wall_distance) * smoothstep(2.0, 1.4, chest.wall_distance)
    low = smoothstep(0.55, 0.65, chest.y / body.dome[RIGHT]) * (chest.diaphragm_distance > 0.4)
    chest.extra += (0.16 * strength * 2 * lines * band * low).astype(np.float32)
    mask |= chest.lung_mask & (wings > 0.42) & (chest.across > body.mediastinum) & (chest.heart_r > 1.0)
    return mask


def _emphysema(chest: Chest, finding: Finding, rng: np.random.Generator) -> Mask:
    bullae = int(_by_grade(finding.grade, rng, (2, 4.99), (1, 2.99), (0, 1.99)))
    for _ in range(bullae):
        side = int(rng.choice((RIGHT, LEFT)))
        radius = rng.uniform(1.3, 2.4)
        cx, cy = zone_centre(
            chest, Finding("nodule", side="left" if side == LEFT else "right", zone="upper"), rng, radius
        )
        distance = np.hypot(chest.x - cx, chest.y - cy)
        inside = distance < radius
        chest.markings = chest.markings * np.where(inside, 0.1, 1.0)
        chest.aeration = chest.aeration * np.where(inside, 1.04, 1.0)
        chest.extra += (0.06 * np.exp(-(((distance - radius) / 0.13) ** 2))).astype(np.float32)
    return chest.lung_mask & (chest.across > chest.body.mediastinum) & (chest.heart_r > 1.0)


def _fibrosis(chest: Chest, finding: Finding, rng: np.random.Generator) -> Mask:
    strength = _by_grade(finding.grade, rng, (0.33, 0.40), (0.26, 0.32), (0.20, 0.24))
    mask = np.zeros(chest.x.shape, dtype=bool)
    frequency = rng.uniform(0.95, 1.25)
    a, b = (
        chest.noise(chest.x * frequency + 5, chest.y * frequency),
        chest.noise(chest.y * frequency, chest.x * frequency),
    )
    net = np.exp(-((a / 0.22) ** 2)) + np.exp(-((b / 0.22) ** 2))
    for side in finding.sides:
        height = lung_height(chest.body, side)
        basal = smoothstep(0.38, 0.75, chest.y / height)
        peripheral = 0.45 + 0.55 * smoothstep(6.0, 2.0, chest.wall_distance)
        weight = basal * peripheral * _side_mask(chest, side) * chest.lung_mask
        chest.extra += (strength * (np.minimum(net, 1.2) - 0.25) * weight).astype(np.float32)
        mask |= (weight > 0.38) & (chest.heart_r > 1.0)
    return mask


def _calcification(chest: Chest, finding: Finding, rng: np.random.Generator) -> Mask:
    count = int(rng.integers(2, 6))
    cx, cy = zone_centre(chest, finding, rng, 1.0)
    mask = np.zeros(chest.x.shape, dtype=bool)
    for n in range(count):
        radius = _by_grade(finding.grade, rng, (0.44, 0.58), (0.37, 0.46), (0.31, 0.38))
        x, y = (cx, cy) if n == 0 else (cx + rng.uniform(-1.1, 1.1), cy + rng.uniform(-1.1, 1.1))
        distance = np.hypot(chest.x - x, chest.y - y)
        soft = max(0.6 * chest.pixel_cm, 0.05)
        speck = smoothstep(radius + soft, radius - soft, distance.astype(np.float32))
        chest.extra += (_by_grade(finding.grade, rng, (1.0, 1.3), (0.8, 1.0), (0.6, 0.8)) * speck).astype(np.float32)
        mask |= distance < radius + soft
    return mask


def _rib_fracture(chest: Chest, finding: Finding, rng: np.random.Generator) -> Mask:
    side, body = finding.sides[0], chest.body
    number = int(rng.integers(3, 8))
    across = rng.uniform(0.52, 0.86) * body.half_width
    step = _by_grade(finding.grade, rng, (1.05, 1.3), (0.9, 1.05), (0.75, 0.9)) * float(rng.choice((-1, 1)))
    gap = _by_grade(finding.grade, rng, (0.36, 0.5), (0.28, 0.38), (0.22, 0.3))
    here = _side_mask(chest, side)
    phase = chest.rib_phase()
    this_rib = here & (np.abs(phase - number) < 0.62)
    beyond = smoothstep(-0.05, 0.05, chest.across - across)
    healing = smoothstep(4.0, 0.0, chest.across - across)  # the fragment is back in its place after 4 cm
    chest.rib_shift = np.where(this_rib, chest.rib_shift + step * beyond * healing, chest.rib_shift).astype(np.float32)
    cut = 1.0 - 0.95 * np.exp(-(((chest.across - across) / gap) ** 2))
    chest.rib_cut = np.where(this_rib, chest.rib_cut * cut, chest.rib_cut).astype(np.float32)
    y = float(chest.rib_line(float(number), np.array(across, dtype=np.float32)))
    x = side * across
    distance = np.hypot(chest.x - x, chest.y - y)
    # blood collects under the pleura, and the fragments have sharp ends
    bruise = _by_grade(finding.grade, rng, (0.32, 0.40), (0.25, 0.32), (0.20, 0.25))
    chest.extra += (bruise * np.exp(-((distance / 1.5) ** 2))).astype(np.float32)
    ends = np.exp(-(((np.abs(chest.across - across) - gap) / 0.16) ** 2)) * this_rib * (np.abs(chest.y - y) < 1.0)
    chest.extra += (0.30 * ends).astype(np.float32)
    return (distance < 1.5).astype(bool)


# -- devices --------------------------------------------------------------------------------------


def _wire(chest: Chest, control: list[tuple[float, float]], radius: float, attenuation: float) -> Mask:
    """Draw a radio-opaque line along the Catmull-Rom curve through the control points; return its mask."""
    coarse = distance_to_polyline(chest.x[::4, ::4], chest.y[::4, ::4], control)
    coarse = np.repeat(np.repeat(coarse, 4, axis=0), 4, axis=1)[: chest.x.shape[0], : chest.x.shape[1]]
    near = np.flatnonzero(coarse < 1.6 + 4 * chest.pixel_cm)
    distance = distance_to_polyline(chest.x.ravel()[near], chest.y.ravel()[near], _curve(control))
    soft = max(0.6 * chest.pixel_cm, 0.03)
    share = min(1.0, radius / soft)
    chest.extra.ravel()[near] += attenuation * share * smoothstep(radius + soft, max(radius - soft, 0.0), distance)
    mask = np.zeros(chest.x.shape, dtype=bool)
    mask.ravel()[near] = distance < radius + 2 * soft
    return mask


def _curve(points: list[tuple[float, float]], steps: int = 10) -> list[tuple[float, float]]:
    """Return a Catmull-Rom curve through the points, as a polyline."""
    p = [points[0], *points, points[-1]]
    out: list[tuple[float, float]] = []
    for k in range(1, len(p) - 2):
        for t in np.linspace(0.0, 1.0, steps, endpoint=False):
            x, y = (
                0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
                for a, b, c, d in zip(p[k - 1], p[k], p[k + 1], p[k + 2], strict=True)
            )
            out.append((float(x), float(y)))
    return [*out, points[-1]]


def _endotracheal_tube(chest: Chest, finding: Finding, rng: np.random.Generator) -> Mask:
    x, tip = chest.body.trachea_x, rng.uniform(3.0, 5.6)
    middle = x + rng.uniform(-0.3, 0.3)
    mask = np.zeros(chest.x.shape, dtype=bool)
    for offset in (-0.42, 0.42):
        points = [(middle + offset, -7.0), (middle + offset, -1.0), (x + offset, tip)]
        mask |= _wire(chest, points, 0.08, 0.30)
    _wire(chest, [(middle, -7.0), (middle, -1.0), (x, tip)], 0.06, 0.45)
    return mask


def _central_venous_catheter(chest: Chest, finding: Finding, rng: np.random.Generator) -> Mask:
    side = finding.sides[0]
    entry = [(side * rng.uniform(6.5, 9.0), rng.uniform(2.5, 4.5)), (side * 4.5, 1.6)]
    if rng.random() < 0.4:  # the catheter enters at the jugular vein
        entry = [(side * rng.uniform(2.8, 4.0), -7.0), (side * 2.6, -1.0)]
    superior_vena_cava = -chest.body.mediastinum + 0.7
    crossing = [(0.8, 3.0)] if side == LEFT else []
    points = [
        *entry,
        *crossing,
        (superior_vena_cava - 0.1, 4.6),
        (superior_vena_cava, rng.uniform(8.0, 11.0)),
    ]
    return _wire(chest, points, 0.10, 0.42)


def _nasogastric_tube(chest: Chest, finding: Finding, rng: np.random.Generator) -> Mask:
    bottom = chest.body.dome[LEFT]
    x0 = rng.uniform(-0.4, 0.2)
    points = [
        (x0, -7.0),
        (0.1, 6.0),
        (0.5, bottom - 4.0),
        (2.2, bottom + 0.5),
        (rng.uniform(4.0, 6.0), bottom + 3.2),
    ]
    return _wire(chest, points, 0.11, 0.42)


def _pacemaker(chest: Chest, finding: Finding, rng: np.random.Generator) -> Mask:
    side = finding.sides[0]
    x, y = side * rng.uniform(0.58, 0.72) * chest.body.half_width, rng.uniform(4.2, 6.0)
    turn = rng.uniform(-0.3, 0.3)
    u = np.cos(turn) * (chest.x - x) + np.sin(turn) * (chest.y - y)
    v = -np.sin(turn) * (chest.x - x) + np.cos(turn) * (chest.y - y)
    radius = ((np.abs(u) / 2.3) ** 3 + (np.abs(v) / 1.9) ** 3) ** (1 / 3)
    case = smoothstep(1.04, 0.98, radius.astype(np.float32))
    chest.extra += 2.2 * case
    entry = [(x, y - 1.7), (side * 5.2, 1.8)]
    crossing = [(0.8, 3.2)] if side == LEFT else []
    floor = chest.body.dome[LEFT]
    points = [
        *entry,
        *crossing,
        (-2.0, 5.0),
        (-2.2, floor - 6.0),
        (0.5, floor - 1.6),
        (0.55 * chest.body.heart_left, floor - 1.2),
    ]
    return (radius < 1.05) | _wire(chest, points, 0.09, 0.55)


_DRAW = {
    "atelectasis": _atelectasis,
    "calcification": _calcification,
    "cardiomegaly": _cardiomegaly,
    "consolidation": _consolidation,
    "pulmonary edema": _edema,
    "emphysema": _emphysema,
    "fibrosis": _fibrosis,
    "mass": _mass,
    "nodule": _nodule,
    "pleural effusion": _effusion,
    "pneumothorax": _pneumothorax,
    "rib fracture": _rib_fracture,
    "central venous catheter": _central_venous_catheter,
    "endotracheal tube": _endotracheal_tube,
    "nasogastric tube": _nasogastric_tube,
    "pacemaker": _pacemaker,
}

# Diffuse findings are drawn first, then local ones in the lungs, then heart, pleura and ribs, then devices.
DRAWING_ORDER = (
    "emphysema",
    "pulmonary edema",
    "fibrosis",
    "atelectasis",
    "consolidation",
    "mass",
    "nodule",
    "calcification",
    "cardiomegaly",
    "pneumothorax",
    "pleural effusion",
    "rib fracture",
    *DEVICES,
)
