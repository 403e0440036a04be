"""Nothing is done twice on the way from a file to its results, and files are decoded side by side."""

import time
import warnings
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
from transformers.image_processing_backends import PilBackend
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

import radzero
from radzero import _warnings
from radzero.images import read_radiograph
from radzero.images.geometry import MapGeometry
from radzero.images.radiograph import Radiograph
from radzero.models.processor import RadZeroProcessor
from radzero.phantom.dicom import write_dicom
from radzero.phantom.film import Film
from radzero.prediction.inputs import Item
from radzero.prediction.model import RadZero
from radzero.prediction.output_folder import OutputFolder, run_identity
from radzero.prediction.run import predict_items
from radzero.prediction.writers import WRITERS, WriterOptions, make_writers
from radzero.results import RESULT_KINDS

pytestmark = pytest.mark.slow

SENTENCES = ("There is nodule", "There is no nodule", "There is zebra", "There is cardiomegaly")


@pytest.fixture(scope="module")
def dicoms(tmp_path_factory: pytest.TempPathFactory, phantoms: list[Film]) -> list[Path]:
    """Eight DICOM files."""
    folder = tmp_path_factory.mktemp("dicoms")
    for k in range(8):
        write_dicom(phantoms[k % len(phantoms)], folder / f"{k}.dcm")
    return sorted(folder.iterdir())


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Callable[[object, str], Counter[str]]:
    """Wraps a function or method so that its calls are counted under its name."""
    counts: Counter[str] = Counter()

    def wrap(owner: object, name: str) -> Counter[str]:
        work = getattr(owner, name)

        def call(*args: object, **kwargs: object) -> object:
            counts[name] += 1
            return work(*args, **kwargs)

        monkeypatch.setattr(owner, name, call)
        return counts

    return wrap


def test_threads_decode_side_by_side(dicoms: list[Path], monkeypatch: pytest.MonkeyPatch):
    from radzero.images import dicom

    decode = dicom._decode

    def slow(*args: object, **kwargs: object) -> object:
        time.sleep(0.2)
        return decode(*args, **kwargs)  # type: ignore[arg-type]

    read_radiograph(dicoms[0])  # whatever the first one imports
    monkeypatch.setattr(dicom, "_decode", slow)
    with ThreadPoolExecutor(4) as pool:
        start = time.perf_counter()
        list(pool.map(read_radiograph, dicoms))
        took = time.perf_counter() - start
    assert took <= 0.5, "eight of 0.2 s on four threads"


def test_a_run_does_nothing_twice(
    tiny_model: RadZero, dicoms: list[Path], tmp_path: Path, counted: Callable[[object, str], Counter[str]]
):
    from radzero.images import dicom

    counts = counted(dicom, "open_dicom")
    counted(MapGeometry, "upsample")
    counted(RadZeroProcessor, "unknown_words")
    counted(RadZeroProcessor, "geometry")
    items = [Item.of(path) for path in dicoms]
    writers = make_writers(WRITERS, WriterOptions(0.5, tuple(RESULT_KINDS)))
    asked = [f"{text} {tmp_path.name}" for text in SENTENCES]  # which no other test has asked
    identity = run_identity(tiny_model, asked, threshold=0.5, precision="highest", writers=writers)
    counts.clear()
    outcome = predict_items(
        tiny_model, items, asked, OutputFolder(tmp_path, identity, items), writers=writers, batch_size=3
    )
    assert (outcome.read, outcome.refused, outcome.without_results) == (8, {}, {})
    assert counts["open_dicom"] == len(items), (
        "each file is parsed once, though five kinds of results repeat its header"
    )
    assert counts["upsample"] == len(items) * len(asked), "each map is made once, for the overlay and every result"
    assert counts["unknown_words"] == len(asked), "each sentence is looked up once, in whatever batch"


def test_a_service_parses_a_film_once(
    tiny_model: RadZero, dicoms: list[Path], counted: Callable[[object, str], Counter[str]]
):
    from fastapi.testclient import TestClient

    from radzero.images import dicom
    from radzero.results import header
    from radzero.service.app import create_app

    counts = counted(dicom, "open_dicom")
    counted(header, "open_dicom")
    with TestClient(create_app(tiny_model), base_url="http://127.0.0.1") as client:
        with dicoms[0].open("rb") as file:
            kept = client.post("/v1/films", files={"file": file}).json()
        question = {"sentences": list(SENTENCES), "kinds": "seg,sr"}
        assert client.post(f"/v1/films/{kept['id']}/results", json=question).status_code == 200
    assert counts["open_dicom"] == 1


def test_a_checkpoint_is_opened_once(tiny_checkpoint: Path, counted: Callable[[object, str], Counter[str]]):
    from radzero.models import checkpoints

    counts = counted(checkpoints, "Weights")
    counted(checkpoints, "_read_config")
    radzero.load(tiny_checkpoint, device="cpu")
    assert counts == {"Weights": 1, "_read_config": 1}


PROCESSORS = [
    BlipImageProcessorPil(size={"height": 64, "width": 48}, image_mean=[0.1, 0.5, 0.9], image_std=[0.3, 0.2, 0.1]),
    BitImageProcessorPil(size={"shortest_edge": 60}, crop_size={"height": 56, "width": 56}),
    BitImageProcessorPil(
        size={"shortest_edge": 40}, do_center_crop=False, do_pad=True, pad_size={"height": 90, "width": 90}
    ),
    ViTImageProcessorPil(size={"height": 32, "width": 32}, do_normalize=False),
    ViTImageProcessorPil(size={"height": 130, "width": 140}, resample=0, do_rescale=False),
]


@pytest.mark.parametrize("processor", PROCESSORS, ids=lambda one: type(one).__name__)
def test_a_grey_film_is_resized_once_with_the_same_numbers(
    processor: PilBackend, phantoms: list[Film], counted: Callable[[object, str], Counter[str]], tiny_model: RadZero
):
    film = Radiograph(phantoms[0].pixels, "phantom")
    expected = processor(film.to_rgb(), return_tensors="pt")["pixel_values"]
    shapes: list[tuple[int, ...]] = []
    resize = PilBackend.resize
    whole = RadZeroProcessor(processor, tiny_model.processor.tokenizer)
    with pytest.MonkeyPatch.context() as patch:

        def noted(self: PilBackend, image: np.ndarray, *args: object, **kwargs: object) -> np.ndarray:
            shapes.append(image.shape)
            return resize(self, image, *args, **kwargs)

        patch.setattr(PilBackend, "resize", noted)
        pixels, geometries = whole.films([film])
    assert shapes == [(1, film.height, film.width)]
    assert (pixels == expected.float()).all()
    assert geometries[0].input == tuple(pixels.shape[-2:])


def test_warnings_of_one_thread_are_heard_by_it_alone():
    together = Barrier(2, timeout=10)

    def hear(name: str) -> list[str]:
        with _warnings.recorded() as heard:
            together.wait()
            for k in range(50):
                warnings.warn(f"{name} {k}", stacklevel=1)
            together.wait()
        return heard

    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(hear, ("one", "other"))
    assert one == [f"one {k}" for k in range(50)]
    assert other == [f"other {k}" for k in range(50)]


def test_warnings_outside_are_as_they_were():
    with _warnings.quiet():
        warnings.warn("unheard", stacklevel=1)
    with pytest.warns(UserWarning, match="heard"):
        warnings.warn("heard", stacklevel=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # puts itself in front of all filters
        with _warnings.recorded() as outer:
            warnings.warn("outer", stacklevel=1)
            with _warnings.recorded() as inner:
                warnings.warn("inner", stacklevel=1)
            warnings.warn("outer again", stacklevel=1)
        with pytest.raises(UserWarning, match="an error again"):
            warnings.warn("an error again", stacklevel=1)
    assert (outer, inner) == (["outer", "outer again"], ["inner"])


def test_a_warning_that_was_shown_once_is_heard_all_the_same():
    def warn() -> None:
        warnings.warn("the same place", stacklevel=1)

    with warnings.catch_warnings(record=True):
        warnings.simplefilter("once")
        warn()
        with _warnings.recorded() as heard:
            warn()
    assert heard == ["the same place"]


def test_what_the_filter_touches_is_still_there():
    """Python has no public way to put a filter in front that is no pattern."""
    assert isinstance(warnings.filters, list)
    assert callable(warnings._filters_mutated)  # type: ignore[attr-defined]
