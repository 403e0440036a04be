"""Turn attenuation into a displayed radiograph: scatter, blur, quantum noise, exposure, collimation, side marker."""

from dataclasses import dataclass

import numpy as np

from radzero.phantom.fields import Field, blur

_GLYPHS = {  # letters of the burned-in markers, 5 columns by 7 rows
    "R": ("####.", "#...#", "#...#", "####.", "#.#..", "#..#.", "#...#"),
    "L": ("#....", "#....", "#....", "#....", "#....", "#....", "#####"),
    "A": (".###.", "#...#", "#...#", "#####", "#...#", "#...#", "#...#"),
    "P": ("####.", "#...#", "#...#", "####.", "#....", "#....", "#...."),
}


@dataclass(frozen=True)
class Exposure:
    """Parameters of the exposure and of the display."""

    dose: float  # thousands of quanta per mm2 behind air
    scatter: float  # share of the primary beam
    sharpness: float  # standard deviation of the detector blur in cm
    low: float  # attenuation percentile shown nearly black
    high: float  # attenuation percentile shown nearly white
    gamma: float
    collimation: tuple[float, float, float, float]  # shuttered share at left, top, right, bottom
    marker: str  # "R" or "L"
    marker_height: float  # height of the marker's letter in cm
    marker_drop: float  # distance of the marker in cm below the top of the image, or below its shutter


def sample_exposure(rng: np.random.Generator) -> Exposure:
    """Sample an exposure as automatic exposure control would set it, with the variation between rooms."""
    shutters = rng.uniform(0.01, 0.05, size=4) * (rng.random(4) < 0.25)
    return Exposure(
        dose=float(np.exp(rng.normal(np.log(6.0), 0.5))),
        scatter=rng.uniform(0.15, 0.4),
        sharpness=rng.uniform(0.02, 0.07),
        low=rng.uniform(0.5, 4.0),
        high=rng.uniform(96.0, 99.5),
        gamma=rng.uniform(0.72, 1.1),
        collimation=(float(shutters[0]), float(shutters[1]), float(shutters[2]), float(shutters[3])),
        marker="R" if rng.random() < 0.7 else "L",
        marker_height=rng.uniform(1.5, 2.2),
        marker_drop=rng.uniform(1.0, 2.5),
    )


def expose(
    attenuation: Field,
    exposure: Exposure,
    *,
    pixel_cm: float,
    film_width: float,
    projection: str,
    rng: np.random.Generator,
) -> Field:
    """Return display values (H, W) in 0..1, bones bright, of an attenuation field.

    Args:
        attenuation: (H, W) line integrals, dimensionless.
        exposure: parameters of the exposure and of the display.
        pixel_cm: pixel height in cm, which sets blur and noise per pixel.
        film_width: width of the image in cm.
        projection: "PA" or "AP"; AP radiographs carry the letters AP.
        rng: source of the quantum noise.
    """
    primary = np.exp(-attenuation)
    coarse = blur(primary[::8, ::8], 2.5 / (8 * pixel_cm))
    haze = np.repeat(np.repeat(coarse, 8, axis=0), 8, axis=1)[: primary.shape[0], : primary.shape[1]]
    if haze.shape[0] > 16:
        haze = blur(haze, 3.0)
    signal = primary + exposure.scatter * haze * 0.5
    signal = blur(signal, exposure.sharpness / pixel_cm)
    quanta = exposure.dose * 1000.0 * (pixel_cm * 10.0) ** 2
    sd = np.sqrt(np.maximum(signal, 1e-4) / quanta)
    signal = np.maximum(signal + sd * rng.standard_normal(signal.shape, dtype=np.float32), 1e-4)
    log = -np.log(signal)
    rows, columns = log.shape
    chest = log[rows // 8 : -rows // 10 : 3, columns // 6 : -columns // 6 : 3]
    low, high = np.percentile(chest, (exposure.low, exposure.high))
    value = np.clip((log - low) / max(high - low, 0.3) * 0.9 + 0.07, 0.0, 1.08)
    value = np.where(value > 0.8, 0.8 + 0.2 * np.tanh((value - 0.8) / 0.2), value) ** exposure.gamma
    value = np.clip(value, 0.0, 1.0)
    return _shutter_and_mark(value.astype(np.float32), exposure, pixel_cm, film_width, projection)


def _shutter_and_mark(value: Field, exposure: Exposure, pixel_cm: float, film_width: float, projection: str) -> Field:
    height, width = value.shape
    left, top, right, bottom = exposure.collimation
    value[:, : round(left * width)] = 0.0
    value[: round(top * height)] = 0.0
    value[:, width - round(right * width) :] = 0.0
    value[height - round(bottom * height) :] = 0.0
    pixel_width = film_width / width
    y = (exposure.marker_drop + top * height * pixel_cm) / pixel_cm
    offset = 2.2 + max(left, right) * film_width
    x = (offset if exposure.marker == "R" else film_width - offset) / pixel_width
    _stamp(value, exposure.marker, x, y, exposure.marker_height, pixel_cm, pixel_width)
    if projection == "AP":
        _stamp(value, "AP", x, y + (exposure.marker_height + 0.6) / pixel_cm, 0.9, pixel_cm, pixel_width)
    return value


def _stamp(value: Field, text: str, x: float, y: float, height_cm: float, pixel_cm: float, pixel_width: float) -> None:
    """Draw white letters in ``value``, centred on column ``x`` with their top on row ``y`` (both in pixels)."""
    rows = ["".join(_GLYPHS[letter][r] + "." for letter in text)[:-1] for r in range(7)]
    glyph = np.array([[c == "#" for c in row] for row in rows])
    tall = max(7, round(height_cm / pixel_cm))
    wide = max(glyph.shape[1], round(height_cm * glyph.shape[1] / 7 / pixel_width))
    r = (np.arange(tall) * 7 / tall).astype(int)
    c = (np.arange(wide) * glyph.shape[1] / wide).astype(int)
    letters = glyph[np.ix_(r, c)]
    top, left = round(y), round(x - wide / 2)
    region = value[max(top, 0) : top + tall, max(left, 0) : left + wide]
    letters = letters[max(-top, 0) :, max(-left, 0) :][: region.shape[0], : region.shape[1]]
    region[letters] = 1.0
