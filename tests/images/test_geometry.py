"""Where film pixels go and come back from: formulas, maps on the film, token centres, and what processors really do."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import AutoImageProcessor, PreTrainedTokenizerFast

from radzero.images import Radiograph
from radzero.images.geometry import Geometry, MapGeometry
from radzero.models.configuration import ConvStemConfig
from radzero.models.processor import RadZeroProcessor
from radzero.models.vision import ConvStemModel, patch_shape, token_grid

# -- points --------------------------------------------------------------------------------------------------

sides = st.integers(1, 300)
sizes = st.tuples(sides, sides)


@st.composite
def crops(draw: st.DrawFn, *, largest: int = 300) -> Geometry:
    """A resize, then a centre crop to something no larger."""
    side = st.integers(1, largest)
    resized = (draw(side), draw(side))
    kept = (draw(st.integers(1, resized[0])), draw(st.integers(1, resized[1])))
    return Geometry.center_crop((draw(side), draw(side)), resized, kept)


def geometries(*, largest: int = 300) -> st.SearchStrategy[Geometry]:
    side = st.integers(1, largest)
    size = st.tuples(side, side)
    return st.one_of(
        st.builds(Geometry.squash, size, size),
        st.builds(Geometry.pad, size, size, centred=st.booleans()),
        crops(largest=largest),
    )


coordinates = st.floats(-1000, 1000)


@given(g=geometries(), points=st.lists(st.tuples(coordinates, coordinates), min_size=1, max_size=4))
def test_to_original_is_the_inverse_of_to_input(g: Geometry, points: list[tuple[float, float]]) -> None:
    xy = np.array(points)
    np.testing.assert_allclose(g.to_original(g.to_input(xy)), xy, rtol=1e-9, atol=1e-7)
    np.testing.assert_allclose(g.to_input(g.to_original(xy)), xy, rtol=1e-9, atol=1e-7)


@given(g=geometries(), box=st.tuples(coordinates, coordinates, coordinates, coordinates))
def test_boxes_are_two_points(g: Geometry, box: tuple[float, ...]) -> None:
    for change in (g.to_input, g.to_original):
        moved = change(np.array([box, box]))
        assert moved.shape == (2, 4)
        assert np.array_equal(moved[1, :2], change(box[:2]))
        assert np.array_equal(moved[1, 2:], change(box[2:]))


@given(original=sizes, size=sizes)
def test_squash_brings_the_films_edges_to_the_inputs(original: tuple[int, int], size: tuple[int, int]) -> None:
    g = Geometry.squash(original, size)
    film = [0, 0, original[1], original[0]]
    np.testing.assert_allclose(g.to_input(film), [0, 0, size[1], size[0]], rtol=1e-12)
    np.testing.assert_allclose(g.covered, film, rtol=1e-12)


@given(original=sizes, size=sizes, centred=st.booleans())
def test_pad_keeps_the_aspect_and_the_whole_film(
    original: tuple[int, int], size: tuple[int, int], centred: bool
) -> None:
    g = Geometry.pad(original, size, centred=centred)
    height, width = g.resized
    assert height == size[0] or width == size[1]
    assert height <= size[0]
    assert width <= size[1]
    exact = min(size[0] / original[0], size[1] / original[1])
    for got, side in zip(g.resized, original, strict=True):
        assert abs(got - side * exact) <= 0.5 + 1e-9 or got == 1
    x0, y0, x1, y1 = g.to_input([0, 0, original[1], original[0]])
    if centred:
        assert -1e-9 <= size[1] - x1 - x0 <= 1 + 1e-9  # the odd pixel is on the far side
        assert -1e-9 <= size[0] - y1 - y0 <= 1 + 1e-9
    else:
        assert (x0, y0) == (0, 0)
    np.testing.assert_allclose(g.covered, [0, 0, original[1], original[0]], atol=1e-9 * max(original))


@given(g=crops())
def test_center_crop_covers_the_middle(g: Geometry) -> None:
    x0, y0, x1, y1 = g.covered
    height, width = g.original
    for low, high, length, resized, kept in (
        (x0, x1, width, g.resized[1], g.input[1]),
        (y0, y1, height, g.resized[0], g.input[0]),
    ):
        pixel = length / resized  # one input pixel, in film pixels
        assert high - low == pytest.approx(kept * pixel)
        assert -1e-9 <= (length - high) - low <= pixel + 1e-9  # an odd remainder is on the far side


def test_pixel_centres_of_a_known_crop() -> None:
    """40 x 80 -> 20 x 40 -> the middle 10 x 10: rows 10..30 and columns 30..50 of the film."""
    g = Geometry.center_crop((40, 80), (20, 40), (10, 10))
    assert g.scale == (0.5, 0.5)
    assert g.covered == (30, 10, 50, 30)
    assert g.to_input([30.0, 10.0]).tolist() == [0, 0]
    assert g.to_original([[0.5, 0.5], [9.5, 9.5]]).tolist() == [[31, 11], [49, 29]]


@pytest.mark.parametrize("length", [1, 3, 5])
def test_what_is_neither_point_nor_box_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="points have 2 coordinates and boxes 4"):
        Geometry.squash((4, 4), (8, 8)).to_input(np.zeros(length))


@pytest.mark.parametrize(
    "arguments",
    [
        ((0, 4), (4, 4), (0, 0), (4, 4)),
        ((4, 4), (4, 0), (0, 0), (4, 4)),
        ((4, 4), (4, 4), (0, 0), (4, -1)),
        ((4, 4), (4, 4), (4, 0), (4, 4)),
        ((4, 4), (4, 4), (0, -4), (4, 4)),
    ],
)
def test_impossible_geometries_are_refused(arguments: tuple) -> None:
    with pytest.raises(ValueError, match=r"Geometry\("):
        Geometry.of(*arguments)


# -- maps ----------------------------------------------------------------------------------------------------


def slow_map(g: Geometry, grid: np.ndarray, patch: int, fill: float) -> np.ndarray:
    """Pixel by pixel: the film pixel's centre in the input, in units of patches, between four patch centres."""
    out = np.full(g.original, fill)

    def taps(k: int, axis: int) -> tuple[int, int, float] | None:
        at = (k + 0.5) * g.resized[axis] / g.original[axis] + g.placed[axis]
        if not 0 <= at <= g.input[axis]:
            return None
        cell = min(max(at / patch - 0.5, 0.0), grid.shape[axis] - 1.0)
        first = min(int(cell), grid.shape[axis] - 1)
        return first, min(first + 1, grid.shape[axis] - 1), cell - first

    for y in range(g.original[0]):
        for x in range(g.original[1]):
            rows, columns = taps(y, 0), taps(x, 1)
            if rows is None or columns is None:
                continue
            (y0, y1, wy), (x0, x1, wx) = rows, columns
            top = grid[y0, x0] * (1 - wx) + grid[y0, x1] * wx
            bottom = grid[y1, x0] * (1 - wx) + grid[y1, x1] * wx
            out[y, x] = top * (1 - wy) + bottom * wy
    return out


def random_grid(seed: int, shape: tuple[int, ...], levels: int | None = None) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = rng.normal(0, 5, shape) if levels is None else rng.integers(0, levels, shape)
    return values.astype(np.float32)


@given(
    seed=st.integers(0, 10**6),
    grid=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    film=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    patch=st.integers(1, 16),
)
@settings(deadline=None)
def test_a_squashed_films_map_is_the_plain_bilinear_resize(
    seed: int, grid: tuple[int, int], film: tuple[int, int], patch: int
) -> None:
    g = Geometry.squash(film, (grid[0] * patch, grid[1] * patch))
    values = random_grid(seed, (2, 3, *grid))
    truth = F.interpolate(torch.from_numpy(values), size=film, mode="bilinear", align_corners=False)
    found = MapGeometry(g, grid, (patch, patch)).upsample(values, fill=np.nan)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, truth.numpy(), atol=2e-4)


@st.composite
def mapped(draw: st.DrawFn) -> tuple[Geometry, tuple[int, int], int]:
    """A geometry with a grid of patches that may fall short of the input."""
    g = draw(geometries(largest=40))
    for axis in (0, 1):  # a crop may fall between two pixels' centres
        centres = (np.arange(g.original[axis]) + 0.5) * g.resized[axis] / g.original[axis] + g.placed[axis]
        assume(((centres > 0) & (centres < g.input[axis])).any())
    patch = draw(st.integers(1, min(g.input)))
    return g, (g.input[0] // patch, g.input[1] // patch), patch


@given(case=mapped(), seed=st.integers(0, 10**6), fill=st.sampled_from([-math.inf, 0.0, -7.0]))
@settings(deadline=None)
def test_any_map_equals_the_pixel_by_pixel_one(
    case: tuple[Geometry, tuple[int, int], int], seed: int, fill: float
) -> None:
    g, grid, patch = case
    values = random_grid(seed, grid)
    found = MapGeometry(g, grid, (patch, patch)).upsample(values, fill)
    np.testing.assert_allclose(found, slow_map(g, values.astype(np.float64), patch, fill), atol=1e-4)


def on_canvas(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    grid = torch.from_numpy(values)[None, None]
    return F.interpolate(grid, size=size, mode="bilinear", align_corners=False)[0, 0].numpy()


def test_a_padded_films_map_is_cropped_from_the_padded_canvas() -> None:
    """24 x 40 at half size in 20 x 20: the canvas is 40 x 40 film pixels, the film its rows 8..32."""
    values = random_grid(0, (5, 5))
    g = Geometry.pad((24, 40), (20, 20))
    np.testing.assert_allclose(
        MapGeometry(g, (5, 5), (4, 4)).upsample(values, np.nan), on_canvas(values, (40, 40))[8:32], atol=1e-5
    )
    g = Geometry.pad((40, 24), (20, 20), centred=False)
    np.testing.assert_allclose(
        MapGeometry(g, (5, 5), (4, 4)).upsample(values, np.nan), on_canvas(values, (40, 40))[:, :24], atol=1e-5
    )
    g = Geometry.pad((6, 10), (20, 20))  # enlarged twice
    np.testing.assert_allclose(
        MapGeometry(g, (5, 5), (4, 4)).upsample(values, np.nan), on_canvas(values, (10, 10))[2:8], atol=1e-5
    )


def test_a_cropped_films_map_covers_the_crop_only() -> None:
    """40 x 72 -> 20 x 36 -> the middle 12 x 12: film rows 8..32 and columns 24..48."""
    values = random_grid(1, (3, 3))
    g = Geometry.center_crop((40, 72), (20, 36), (12, 12))
    found = MapGeometry(g, (3, 3), (4, 4)).upsample(values, fill=-np.inf)
    np.testing.assert_allclose(found[8:32, 24:48], on_canvas(values, (24, 24)), atol=1e-5)
    assert np.isinf(found).sum() == 40 * 72 - 24 * 24


def test_patches_that_fall_short_of_the_input() -> None:
    """Input 11, patch 4: two patches centred on 2 and 6; what lies beyond 6 repeats the last."""
    g = Geometry.squash((11, 11), (11, 11))
    found = MapGeometry(g, (2, 2), (4, 4)).upsample([[0.0, 8.0], [0.0, 8.0]], fill=np.nan)
    np.testing.assert_allclose(found, np.tile([0, 0, 1, 3, 5, 7, 8, 8, 8, 8, 8], (11, 1)), atol=1e-6)


@given(case=mapped(), seed=st.integers(0, 10**6), levels=st.sampled_from([None, 1, 2, 4]))
@settings(max_examples=300, deadline=None)
def test_the_peak_is_the_arg_max_of_the_whole_map(
    case: tuple[Geometry, tuple[int, int], int], seed: int, levels: int | None
) -> None:
    g, grid, patch = case
    maps = MapGeometry(g, grid, (patch, patch))
    values = random_grid(seed, (3, *grid), levels)
    everywhere = maps.upsample(values, fill=-np.inf)
    peaks = maps.peak(values)
    assert peaks.shape == (3, 2)
    for (x, y), one in zip(peaks, everywhere, strict=True):
        # the same pixel, or one of the same value: float32 interpolation wavers by units in the last place on plateaus
        assert one[y, x] >= one.max() - 4 * np.spacing(np.abs(values).max())


def test_peaks_of_known_grids() -> None:
    g = Geometry.squash((80, 40), (40, 40))
    maps = MapGeometry(g, (4, 4), (10, 10))
    one_hot = np.eye(16, dtype=np.float32).reshape(16, 4, 4)
    for k, (x, y) in enumerate(maps.peak(one_hot)):
        # the patch's centre lies on an edge between film pixels, so on either side of it
        assert abs(x + 0.5 - (k % 4 * 10 + 5)) <= (35 if k % 4 in (0, 3) else 0.5)
        assert maps.upsample(one_hot[k], 0)[y, x] == maps.upsample(one_hot[k], 0).max()
    assert maps.peak(np.zeros((4, 4))).tolist() == [0, 0]
    assert maps.peak(np.arange(16).reshape(4, 4)).tolist() == [35, 70]  # the first of the repeated border


def test_a_crop_between_two_film_pixels() -> None:
    """A few film pixels enlarged until the crop shows none's centre: a clear refusal, or the nearest pixel."""
    g = Geometry.center_crop((4, 4), (100, 100), (10, 10))  # the crop is film 1.8..2.2
    try:
        peak = MapGeometry(g, (1, 1), (10, 10)).peak([[1.0]])
    except ValueError as error:
        assert "Geometry(" in str(error)  # noqa: PT017
    else:
        assert set(peak.tolist()) <= {1, 2}


def test_wrong_grids_are_refused() -> None:
    g = Geometry.squash((8, 8), (20, 20))
    with pytest.raises(ValueError, match="do not fit"):
        MapGeometry(g, (6, 5), (4, 4))
    maps = MapGeometry(g, (5, 5), (4, 4))
    for change in (lambda v: maps.upsample(v, 0.0), maps.peak):
        with pytest.raises(ValueError, match="must end in"):
            change(np.zeros((5, 4)))


# -- tokens --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("stride", "token"), [(8, (5, 6)), (16, (3, 2))])
def test_tokens_of_the_conv_stem_are_centred_where_the_map_puts_them(stride: int, token: tuple[int, int]) -> None:
    size = 112
    grid = (size // stride, size // stride)
    weight = np.zeros((size, size))
    for seed in range(12):
        torch.manual_seed(seed)
        model = ConvStemModel(ConvStemConfig(widths=(16, 16, 16), token_stride=stride, image_size=64)).eval()
        pixels = torch.randn(1, 3, size, size, requires_grad=True)
        tokens = model(pixels).last_hidden_state
        assert tokens.shape == (1, 1 + grid[0] * grid[1], 16)
        chosen = tokens[0, 1 + token[0] * grid[1] + token[1]]
        for direction in torch.randn(3, 16):
            (gradient,) = torch.autograd.grad(chosen @ direction, pixels, retain_graph=True)
            seen = gradient.abs().sum(dim=(0, 1)).double().numpy()
            weight += seen / seen.sum()
    centre = [(k + 0.5) * stride for k in token]  # with 0 at the first pixel's edge, as in Geometry
    for axis in (0, 1):
        profile = weight.sum(axis=1 - axis)
        seen = np.flatnonzero(profile)
        assert seen[0] > 0
        assert seen[-1] < size - 1  # the whole receptive field is inside
        assert (seen[0] + seen[-1] + 1) / 2 == centre[axis]
        centroid = (profile * (np.arange(size) + 0.5)).sum() / profile.sum()
        assert centroid == pytest.approx(centre[axis], abs=1.0)  # scatters by 0.3 around it with random weights


@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize("shape", [(64, 64), (48, 80), (55, 71), (16, 16)])
def test_the_conv_stem_gives_the_grid_that_is_announced(stride: int, shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    config = ConvStemConfig(widths=(6, 6, 8), token_stride=stride, image_size=64)
    model = ConvStemModel(config).eval()
    grid = token_grid(config, shape)
    assert grid == (shape[0] // stride, shape[1] // stride)
    with torch.no_grad():
        tokens = model(torch.randn(2, 3, *shape)).last_hidden_state
    assert tokens.shape == (2, 1 + grid[0] * grid[1], 8)
    assert tokens.isfinite().all()
    MapGeometry(Geometry.squash((90, 60), shape), grid, patch_shape(config))


def test_a_spot_on_the_film_moves_the_token_under_it() -> None:
    """Tokens go row by row: a spot in the upper right is not mistaken for one in the lower left."""
    change = torch.zeros(8, 16)
    for seed in range(6):
        torch.manual_seed(seed)
        model = ConvStemModel(ConvStemConfig(widths=(8, 8, 16), token_stride=8, image_size=64)).eval()
        film = torch.randn(1, 1, 64, 128).expand(1, 3, 64, 128)
        spot = film.clone()
        spot[..., 16:24, 96:104] *= -1  # under token (2, 12)
        with torch.no_grad():
            moved = (model(spot).last_hidden_state - model(film).last_hidden_state)[0, 1:].norm(dim=-1)
        change += moved.reshape(8, 16)
    row, column = divmod(int(change.argmax()), 16)
    assert abs(row - 2) <= 1  # the receptive field is wider than a token
    assert abs(column - 12) <= 1


# -- what image processors really do -------------------------------------------------------------------------


def make_processor(folder: Path, **changes: Any) -> RadZeroProcessor:
    """As a checkpoint's preprocessor_config.json would give it; no normalisation, so that black is 0."""
    settings = {
        "do_convert_rgb": True,
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "image_mean": [0.0, 0.0, 0.0],
        "image_std": [1.0, 1.0, 1.0],
        "resample": 3,
        "rescale_factor": 1 / 255,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings | changes))
    images = AutoImageProcessor.from_pretrained(folder, backend="pil")
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "[PAD]": 1}, unk_token="[UNK]"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", pad_token="[PAD]")
    return RadZeroProcessor(images, tokenizer)


def blob(height: int, width: int, x: float, y: float, sigma: float) -> Radiograph:
    """A soft bright spot; x, y with 0 at the first pixel's edge."""
    rows = np.exp(-(((np.arange(height) + 0.5 - y) / sigma) ** 2) / 2)
    columns = np.exp(-(((np.arange(width) + 0.5 - x) / sigma) ** 2) / 2)
    return Radiograph(np.ascontiguousarray(np.outer(rows, columns), dtype=np.float32), "blob")


BLIP = {"image_processor_type": "BlipImageProcessor"}
BIT = {"image_processor_type": "BitImageProcessor", "do_center_crop": True}
PROCESSORS = [
    pytest.param(BLIP | {"size": {"height": 70, "width": 70}}, id="squash"),
    pytest.param(BLIP | {"size": {"height": 41, "width": 77}}, id="squash to odd sizes"),
    pytest.param(
        BIT | {"size": {"shortest_edge": 48}, "crop_size": {"height": 48, "width": 48}}, id="shortest edge, crop"
    ),
    pytest.param(BIT | {"size": {"shortest_edge": 53}, "crop_size": {"height": 46, "width": 49}}, id="odd sizes, crop"),
    pytest.param(
        BIT | {"size": {"shortest_edge": 40}, "crop_size": {"height": 61, "width": 61}}, id="smaller than the crop"
    ),
    pytest.param(
        BIT | {"size": {"shortest_edge": 39}, "crop_size": {"height": 62, "width": 50}},
        id="smaller than the crop, other parity",
    ),
    pytest.param(
        BIT | {"size": {"height": 60, "width": 44}, "crop_size": {"height": 37, "width": 37}}, id="squash, crop"
    ),
    pytest.param(BIT | {"do_resize": False, "crop_size": {"height": 64, "width": 64}}, id="crop without resize"),
    pytest.param(BIT | {"do_center_crop": False, "size": {"shortest_edge": 45}}, id="shortest edge, no crop"),
]


@pytest.mark.parametrize("settings_", PROCESSORS)
@given(
    height=st.integers(32, 130),
    width=st.integers(32, 130),
    where=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
@settings(max_examples=25, deadline=None)
def test_a_blob_comes_back_to_where_it_was(
    settings_: dict, height: int, width: int, where: tuple[float, float], tmp_path_factory: pytest.TempPathFactory
) -> None:
    processor = make_processor(tmp_path_factory.mktemp("processor"), **settings_)
    g = processor.geometry((height, width))
    sigma = 1.5 / min(*g.scale, 1.0)
    margin = 4 * sigma + 1 / min(g.scale)
    x0, y0, x1, y1 = g.covered
    assume(x1 - x0 > 2 * margin)
    assume(y1 - y0 > 2 * margin)
    x = x0 + margin + where[0] * (x1 - x0 - 2 * margin)
    y = y0 + margin + where[1] * (y1 - y0 - 2 * margin)

    pixels, [found] = processor.films([blob(height, width, x, y, sigma)])
    assert found == g
    assert pixels.shape == (1, 3, *g.input)
    assert pixels.dtype == torch.float32
    seen = pixels[0].mean(dim=0).double().numpy()
    total = seen.sum()
    centroid = [
        (seen.sum(axis=0) * (np.arange(g.input[1]) + 0.5)).sum() / total,
        (seen.sum(axis=1) * (np.arange(g.input[0]) + 0.5)).sum() / total,
    ]
    # a quarter of an input pixel; an offset wrong by one would be four times that
    np.testing.assert_allclose(centroid, g.to_input([x, y]), atol=0.25)
    back = g.to_original(centroid)
    assert abs(back[0] - x) <= 0.25 / g.scale[1]
    assert abs(back[1] - y) <= 0.25 / g.scale[0]


@pytest.mark.parametrize("settings_", PROCESSORS)
@pytest.mark.parametrize("shape", [(32, 130), (130, 33), (64, 64), (47, 61)])
def test_the_films_edges_are_where_the_geometry_says(settings_: dict, shape: tuple[int, int], tmp_path: Path) -> None:
    """A white film: what is not white in the input is padding, exactly where the geometry has it."""
    processor = make_processor(tmp_path, **settings_)
    g = processor.geometry(shape)
    white = Radiograph(np.ones(shape, dtype=np.float32), "white")
    pixels, _ = processor.films([white])
    truth = np.zeros(g.input)
    y, x = g.placed
    truth[max(y, 0) : y + g.resized[0], max(x, 0) : x + g.resized[1]] = 1
    np.testing.assert_allclose(pixels[0, 0].numpy(), truth, atol=1e-6)


def test_films_of_several_shapes_in_one_batch(tmp_path: Path) -> None:
    processor = make_processor(tmp_path, **BLIP, size={"height": 40, "width": 50})
    films = [blob(60, 80, 20, 30, 4), blob(100, 50, 10, 70, 4)]
    pixels, found = processor.films(films)
    assert pixels.shape == (2, 3, 40, 50)
    assert found == [Geometry.squash((60, 80), (40, 50)), Geometry.squash((100, 50), (40, 50))]
    for k, film in enumerate(films):
        assert torch.equal(processor.films([film])[0][0], pixels[k])
    direct = processor(images=[film.to_rgb() for film in films])["pixel_values"]
    assert torch.equal(direct, pixels)


@pytest.mark.parametrize("size", [{"longest_edge": 40}, {"shortest_edge": 40, "longest_edge": 60}])
def test_sizes_whose_geometry_is_not_known_are_refused(size: dict, tmp_path: Path) -> None:
    processor = make_processor(tmp_path, **BLIP, size=size)
    with pytest.raises(ValueError, match="not supported"):
        processor.geometry((60, 80))
