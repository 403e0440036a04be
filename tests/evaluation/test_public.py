"""The public benchmarks, in miniatures of their published layouts, and in the real annotation files."""

import csv
import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from radzero.evaluation import public
from radzero.evaluation.benchmark import Benchmark, BenchmarkError
from radzero.evaluation.contrasts import with_contrasts
from radzero.evaluation.public.openi import labels_of
from radzero.evaluation.registry import BENCHMARKS
from radzero.evaluation.run import run_benchmark
from radzero.evaluation.scoring import score
from radzero.images import Radiograph, read_radiograph
from radzero.phantom.dicom import write_dicom
from radzero.phantom.film import make_film
from radzero.phantom.writing import FilmFormat, write_phantoms

pytestmark = pytest.mark.slow

SIDE = 1024


@pytest.fixture(scope="session")
def picture(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A PNG of 1024 x 1024."""
    path = tmp_path_factory.mktemp("picture") / "p.png"
    ramp = np.add.outer(np.arange(SIDE), np.arange(SIDE)) // 9
    Image.fromarray(ramp.astype(np.uint8)).save(path)
    return path.read_bytes()


@pytest.fixture(scope="session")
def dicom(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A DICOM file of 1024 x 1024."""
    path = tmp_path_factory.mktemp("dicom") / "d.dcm"
    write_dicom(make_film(1, 0, shape=(SIDE, SIDE)), path)
    return path.read_bytes()


def put(path: Path, content: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


# -- miniatures ----------------------------------------------------------------------------------------

NIH = [
    "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax",
    "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia",
]  # fmt: skip


def openi(folder: Path, picture: bytes, dicom: bytes) -> None:
    labels = [
        "atelectases|opacity", "cardiomegaly", "pleural effusion", "infiltrates", "mass|lesion", "nodule", "pneumonia",
        "pneumothorax", "pulmonary edema", "emphysema", "pulmonary fibrosis", "thickening|pleural thickening",
        "hernia, hiatal", "fractures, bone", "calcified granuloma", "granuloma", "no indexing", "",
    ]  # fmt: skip
    rows = ["uid,imageid,labels_major,labels_automatic"]
    for k, text in enumerate(labels):
        rows.append(f'{k},CXR{k}_IM-000{k}-1001,other,"{text}"')
        put(folder / f"NLMCXR_png/CXR{k}_IM-000{k}-1001.png", picture)
    put(folder / "custom.csv", "\n".join(rows))


def padchest(folder: Path, picture: bytes, dicom: bytes) -> None:
    labels: dict[str, list[str]] = {}
    for k in range(14):
        labels[f"{k}_a_{k}.png"] = ["common"] if k < 12 else ["normal"]
        put(folder / f"images/{k}_a_{k}.png", picture)
    labels["0_a_0.png"] = ["common", "rare", " Rare"]
    labels["1_a_1.png"] = ["common", "aortic elongation"]
    put(folder / "padchest_labels.json", json.dumps(labels))


def chestxray14(folder: Path, picture: bytes, dicom: bytes) -> None:
    lines = []
    for k in range(15):
        name = f"{k:08d}_000.png"
        lines.append(f"{name} " + " ".join("1" if k in (column, 14) else "0" for column in range(14)))
        put(folder / f"images_001/images/{name}", picture)
    put(folder / "test_list.txt", "\n".join(lines) + "\n")
    boxes = [
        "Image Index,Finding Label,Bbox [x,y,w,h],,,",
        "00000003_000.png,Infiltrate,100.5,200.25,300,100,,,",
        "00000001_000.png,Cardiomegaly,10,20,500,600,,,",
        "00000001_000.png,Cardiomegaly,700,20,50,60,,,",
        "99999999_000.png,Mass,1,2,3,4,,,",
    ]
    put(folder / "BBox_List_2017.csv", "\n".join(boxes))


def chexpert(folder: Path, picture: bytes, dicom: bytes) -> None:
    rows = ["Study,No Finding,Cardiomegaly,Edema,Consolidation,Atelectasis,Pleural Effusion"]
    for k in range(6):
        rows.append(f"CheXpert-v1.0/test/patient{k}/study1,0," + ",".join(str(int(k in (c, 5))) for c in range(5)))
        put(folder / f"test/patient{k}/study1/view1_frontal.png", picture)
        put(folder / f"test/patient{k}/study1/view2_lateral.png", picture)
    put(folder / "groundtruth.csv", "\n".join(rows))


DET = [
    "Atelectasis", "Calcification", "Consolidation", "Effusion", "Emphysema", "Fibrosis", "Fracture", "Mass", "Nodule",
    "Pneumothorax",
]  # fmt: skip


def chestxdet10(folder: Path, picture: bytes, dicom: bytes) -> None:
    entries = [{"file_name": "empty.png", "syms": [], "boxes": []}]
    entries += [
        {"file_name": f"{k}.png", "syms": [name, name], "boxes": [[10, 20, 110, 220], [500 + k, 600, 700, 800]]}
        for k, name in enumerate(DET)
    ]
    for entry in entries:
        put(folder / "test_data" / str(entry["file_name"]), picture)
    put(folder / "test.json", json.dumps(entries))


def mscxr(folder: Path, picture: bytes, dicom: bytes) -> None:
    entries = [
        {"image": "files/p10/p10000001/s1/a.png", "phrase": "small left effusion", "box": [600, 700, 800, 900]},
        {"image": "files/p10/p10000002/s2/b.png", "phrase": "right apical opacity ", "box": [100, 100, 300, 300]},
        {"image": "files/p10/p10000002/s2/b.png", "phrase": "small left effusion", "box": [600, 700, 800, 900]},
    ]
    for entry in entries:
        put(folder / str(entry["image"]), picture)
    put(folder / "ms_cxr_test.json", json.dumps(entries))


def runs(mask: np.ndarray, relative: bool) -> str:
    """Run lengths of a mask by walking down its columns, pixel after pixel."""
    flat, out, position, last = mask.T.reshape(-1).tolist(), [], 0, 0
    while position < len(flat):
        if flat[position]:
            end = position
            while end < len(flat) and flat[end]:
                end += 1
            out += [position - last if relative else position + 1, end - position]
            last = position = end
        else:
            position += 1
    return " ".join(map(str, out))


def siim_masks() -> list[np.ndarray]:
    masks = []
    for k in range(3):
        mask = np.zeros((SIDE, SIDE), dtype=bool)
        mask[100 + k : 180, 50 : 120 + k] = True
        mask[600:640, 700 + k : 760] = True
        masks.append(mask)
    return masks


def siim(folder: Path, picture: bytes, dicom: bytes, relative: bool = True) -> None:
    rows = ["ImageId, EncodedPixels"]
    rows += [f"1.2.{k}, {runs(mask, relative)}" for k, mask in enumerate(siim_masks())]
    rows += ["1.2.3, -1", "1.2.4,-1"]
    for k in range(5):
        put(folder / f"dicom-images-test/a{k}/b{k}/1.2.{k}.dcm", dicom)
    put(folder / "siim_test.csv", "\n".join(rows))


def siim_absolute(folder: Path, picture: bytes, dicom: bytes) -> None:
    siim(folder, picture, dicom, relative=False)


def rsna(folder: Path, picture: bytes, dicom: bytes) -> None:
    rows = [
        "patientId,x,y,width,height,Target",
        "aaa,100.0,200.0,300.0,400.0,1",
        "aaa,600.0,200.0,100.0,400.0,1",
        "bbb,,,,,0",
        "ccc,10,20,30,40,1",
        "ddd,,,,,0",
    ]
    for name in ("aaa", "bbb", "ccc", "ddd"):
        put(folder / f"stage_2_train_images/{name}.dcm", dicom)
    put(folder / "stage_2_train_labels.csv", "\n".join(rows))


def rsna_medklip(folder: Path, picture: bytes, dicom: bytes) -> None:
    rows = [
        ",img_path,classes,boxes",
        "0,stage_2_train_images/aaa.dcm,1,100.0;200.0;300.0;400.0|600.0;200.0;100.0;400.0",
        "1,stage_2_train_images/bbb.dcm,0,",
        "2,stage_2_train_images/ccc.dcm,1,10;20;30;40",
        "3,stage_2_train_images/ddd.dcm,0,",
    ]
    for name in ("aaa", "bbb", "ccc", "ddd"):
        put(folder / f"stage_2_train_images/{name}.dcm", dicom)
    put(folder / "test.csv", "\n".join(rows))


def phantoms(folder: Path, picture: bytes, dicom: bytes) -> None:
    write_phantoms(folder, count=24, seed=77, size=96, film_format=FilmFormat.PNG)


def lungs(folder: Path, picture: bytes, dicom: bytes) -> None:
    for name in ("a.jpg", "b.png", "c.png"):
        Image.fromarray(np.add.outer(np.arange(60), np.arange(50)).astype(np.uint8)).save(folder_of(folder) / name)
    mask = np.zeros((60, 50), dtype=np.uint8)
    mask[20:40, 5:20] = mask[18:42, 30:45] = 255
    for name in ("lung_masks_a/a.jpg", "lung_masks_b/b_mask.png"):
        Image.fromarray(mask).save(folder_of(folder / name.split("/")[0]) / name.split("/")[1])


def folder_of(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


Miniature = Callable[[Path, bytes, bytes], None]
MINIATURES: dict[str, tuple[str, Miniature]] = {
    "openi": ("openi", openi),
    "padchest": ("padchest", padchest),
    "padchest20": ("padchest20", padchest),
    "chestxray14": ("chestxray14", chestxray14),
    "chexpert": ("chexpert", chexpert),
    "chestxdet10": ("chestxdet10", chestxdet10),
    "mscxr": ("mscxr", mscxr),
    "siim": ("siim", siim),
    "siim, absolute": ("siim", siim_absolute),
    "rsna": ("rsna", rsna),
    "rsna, MedKLIP": ("rsna", rsna_medklip),
    "phantoms": ("phantom", phantoms),
    "anatomy of phantoms": ("anatomy", phantoms),
    "anatomy, lungs": ("anatomy", lungs),
}


# -- models that know --------------------------------------------------------------------------------------


class Oracle:
    """Answers with the truth, its opposite, or by chance."""

    sha256 = ""

    def __init__(self, benchmark: Benchmark, kind: str, seed: int = 3) -> None:
        self.name, self.benchmark, self.kind = kind, benchmark, kind
        self.chance = np.random.default_rng(seed)
        self.place = {str(image.path): k for k, image in enumerate(benchmark.images)}

    def embed_sentences(self, sentences):
        return list(sentences)

    def embed_images(self, films: list[Radiograph]):
        return [(self.place[film.source], film) for film in films]

    def logits(self, images, sentences):
        out = np.full((len(images), len(sentences)), -8.0, dtype=np.float32)
        for row, (index, _) in enumerate(images):
            for column, sentence in enumerate(self.benchmark.prompts):
                if self.benchmark.truth[index, column] == 1:
                    out[row, sentence] = 8.0
            for column, contrast in enumerate(map(self.benchmark.contrasts.get, self.benchmark.classes)):
                if contrast is not None:
                    out[row, contrast.denied] = -out[row, self.benchmark.prompts[column]]
                    if (side := self.benchmark.sides[index, column]) and contrast.right is not None:
                        out[row, contrast.right if side == "right" else contrast.left] = 8.0
        return self._said(out)

    def _said(self, truth: np.ndarray) -> np.ndarray:
        if self.kind == "random":
            return self.chance.normal(size=truth.shape).astype(np.float32)
        return truth if self.kind == "oracle" else -truth

    def raw_map(self, images, sentences, film, sentence):
        index, radiograph = images[film]
        mask = np.zeros((radiograph.height, radiograph.width), dtype=bool)
        for region in self.benchmark.regions:
            if (region.image, region.sentence) == (index, sentence):
                for x0, y0, x1, y1 in region.boxes if region.mask is None else ():
                    mask[round(y0) : round(y1), round(x0) : round(x1)] = True
                if region.mask is not None:
                    mask |= region.mask.load(*mask.shape)
        truth = np.where(mask, 8.0, -8.0)
        truth[mask] += np.linspace(0, 1, int(mask.sum()))  # the peak is no corner of a box with fractional edges
        return self._said(truth.astype(np.float32))


@pytest.fixture(scope="module", params=MINIATURES)
def benchmark(request, tmp_path_factory: pytest.TempPathFactory, picture: bytes, dicom: bytes) -> Benchmark:
    name, make = MINIATURES[request.param]
    folder = tmp_path_factory.mktemp("mini") / name
    make(folder, picture, dicom)
    return with_contrasts(BENCHMARKS[name].module.read(folder))


def test_every_image_of_a_miniature_is_there(benchmark: Benchmark):
    assert benchmark.missing == ()
    assert all(image.path and image.path.exists() for image in benchmark.images)
    assert all(
        sentence.startswith("There is ") or benchmark.name in ("mscxr", "anatomy") for sentence in benchmark.sentences
    )


def test_an_oracle_scores_one_and_its_opposite_nothing(benchmark: Benchmark, tmp_path: Path):
    found = {
        kind: score(run_benchmark(benchmark, Oracle(benchmark, kind), tmp_path / kind), resamples=50)
        for kind in ("oracle", "opposite")
    }
    for kind, expected in (("oracle", 1.0), ("opposite", 0.0)):
        contrary = found[kind].get("faithfulness", {})
        for key in ("affirmed when present", "denied when absent", "right against left"):
            assert contrary.get(key, [expected])[0] in (expected, None)
    for task in benchmark.tasks:
        truth, opposite = (found[kind][task] for kind in ("oracle", "opposite"))
        if task == "classification":
            assert truth["macro AUC"][:1] == [1.0]
            assert [truth[f"macro {key}"] for key in ("AUPRC", "F1", "MCC", "accuracy")] == [1.0] * 4
            assert truth["Brier"] < 1e-6
            assert opposite["macro AUC"][0] == 0.0
            assert opposite["Brier"] > 0.999
        elif task == "pointing":
            assert truth["over pairs"][0] == 1.0
            assert opposite["over pairs"][0] == 0.0
        else:
            assert truth["Dice"][0] == 1.0
            assert truth["pixel AUC"] == 1.0
            assert truth["Dice at the other half's threshold"] in (1.0, None)
            assert truth["specificity"] in (1.0, None)
            assert truth["Dice at 0.5"] == 1.0
            assert opposite["pixel AUC"] == 0.0
            # at threshold 0 every pixel is said, which no sweep that begins there can score with 0
            everything = []
            for region in benchmark.regions:
                film = benchmark.images[region.image].film()
                mask = region.mask.load(film.height, film.width)
                everything.append(2 * mask.sum() / (mask.sum() + mask.size))
            assert opposite["Dice"][0] <= max(everything) + 1e-9


def test_chance_is_near_its_expectation(benchmark: Benchmark, tmp_path: Path):
    if len(benchmark.images) < 4:
        pytest.skip("too few images")
    metrics = score(run_benchmark(benchmark, Oracle(benchmark, "random"), tmp_path / "run"), resamples=50)
    if "segmentation" in metrics:
        assert metrics["segmentation"]["pixel AUC"] == pytest.approx(0.5, abs=0.02)
    if "classification" in metrics:
        asked, found = replace(benchmark, tasks=("classification",)), []
        for seed in range(12):
            run = run_benchmark(asked, Oracle(benchmark, "random", seed), tmp_path / str(seed))
            found.append(score(run, resamples=0)["classification"]["macro AUC"][0])
        assert np.mean(found) == pytest.approx(0.5, abs=0.16)
        assert len(set(found)) > 3


# -- details -----------------------------------------------------------------------------------------------


def test_titles_are_those_of_the_modules():
    modules = {name: spec.module for name, spec in BENCHMARKS.items()}
    assert all(name == spec.name == modules[name].NAME and spec.title for name, spec in BENCHMARKS.items())
    assert all(module.SOURCE and module.LAYOUT for module in modules.values())
    assert all(module.PUBLISHED["images"] for name, module in modules.items() if name not in ("phantom", "anatomy"))
    files = {path.stem for path in (Path(public.__file__).parent).glob("[a-z]*.py")}
    assert files == {name.replace("-", "_") for name in BENCHMARKS}, (
        "a benchmark's file is in the registry, and the other way round"
    )


def read(name: str, folder: Path, make: Miniature, picture: bytes = b"", dicom: bytes = b"") -> Benchmark:
    make(folder, picture, dicom)
    return BENCHMARKS[name].module.read(folder)


def test_open_i_labels_by_substrings(tmp_path: Path):
    found = read("openi", tmp_path, openi)
    assert found.classes[:9] == (
        "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax",
        "Edema",
    )  # fmt: skip
    assert len(found.classes) == 18
    assert found.sentences[11] == "There is Pleural Thickening"
    assert labels_of("Atelectases|Infiltrates") == ["Atelectasis", "Infiltration"]
    assert labels_of("calcified granuloma") == ["Calcified Granuloma", "Granuloma"]
    assert labels_of("thickening|pleural thickening") == ["Pleural_Thickening"]
    assert labels_of("no indexing") == []


def test_padchest_has_every_label_but_normal(tmp_path: Path):
    whole, rare = read("padchest", tmp_path, padchest), BENCHMARKS["padchest20"].module.read(tmp_path)
    assert whole.classes == ("aortic elongation", "common", "rare")
    assert rare.classes == ("aortic elongation", "rare"), "at most ten positives"
    assert whole.truth.sum(axis=0).tolist() == [1, 12, 1]


def test_nih_quirks(tmp_path: Path):
    found = read("chestxray14", tmp_path, chestxray14)
    assert found.truth.sum(axis=0).tolist() == [2] * 14
    assert found.tasks == ("classification", "pointing", "segmentation")
    boxes = {(r.image, r.label): r.boxes for r in found.regions}
    assert boxes == {
        (3, "Infiltration"): ((100.5, 200.25, 400.5, 300.25),),
        (1, "Cardiomegaly"): ((10.0, 20.0, 510.0, 620.0), (700.0, 20.0, 750.0, 80.0)),
    }
    (tmp_path / "BBox_List_2017.csv").unlink()
    assert BENCHMARKS["chestxray14"].module.read(tmp_path).tasks == ("classification",)


def test_chestxdet10_prompts_and_empty_entries(tmp_path: Path):
    found = read("chestxdet10", tmp_path, chestxdet10)
    assert found.truth[0].sum() == 0
    assert found.sentences[:3] == (
        "There is Atelectasis",
        "There is Tissue Calcification",
        "There is Pulmonary Consolidation",
    )
    assert found.sentences[6:9] == ("There is Bone Fracture", "There is Pulmonary Mass", "There is Lung Nodule")
    assert [len(r.boxes) for r in found.regions] == [2] * 10


def test_a_phrase_is_asked_once(tmp_path: Path):
    found = read("mscxr", tmp_path, mscxr)
    assert found.sentences == ("small left effusion", "right apical opacity")
    assert [(r.image, r.sentence) for r in found.regions] == [(0, 0), (1, 1), (1, 0)]
    assert [image.patient for image in found.images] == ["p10000001", "p10000002"]


@pytest.mark.parametrize("make", [siim, siim_absolute])
def test_both_run_length_styles_give_the_same_masks(make: Miniature, tmp_path: Path):
    found = read("siim", tmp_path, make)
    assert found.truth[:, 0].tolist() == [1, 1, 1, 0, 0]
    for region, mask in zip(found.regions, siim_masks(), strict=True):
        assert region.mask is not None
        assert np.array_equal(region.mask.load(SIDE, SIDE), mask)


def test_both_rsna_styles_give_the_same_boxes(tmp_path: Path):
    challenge = read("rsna", tmp_path / "a", rsna)
    medklip = read("rsna", tmp_path / "b", rsna_medklip)
    assert [r.boxes for r in challenge.regions] == [r.boxes for r in medklip.regions]
    assert challenge.regions[0].boxes == ((100.0, 200.0, 400.0, 600.0), (600.0, 200.0, 700.0, 600.0))
    assert challenge.truth.tolist() == medklip.truth.tolist() == [[1], [0], [1], [0]]
    assert [image.patient for image in challenge.images] == [image.patient for image in medklip.images]


def test_a_study_is_scored_by_its_frontal_view(tmp_path: Path):
    found = read("chexpert", tmp_path, chexpert)
    assert all(image.path and image.path.name == "view1_frontal.png" for image in found.images)
    assert found.truth[5].tolist() == [1] * 5
    assert found.truth[0].tolist() == [0, 1, 0, 0, 0], "columns by name, whatever their order"


ENTRY = "Image Index,Finding Labels,Patient ID"


def det(label: str, boxes: list[list[int]]) -> str:
    return json.dumps([{"file_name": "a.png", "syms": [label], "boxes": boxes}])


@pytest.mark.parametrize(
    ("name", "file", "content", "said"),
    [
        ("openi", "custom.csv", "uid,labels\n1,x\n", r"custom\.csv: there is no column 'labels_automatic'"),
        ("openi", "custom.csv", "uid,labels_automatic\n1,x\n", "no column names an image"),
        ("padchest", "x.json", "[1]", "expected image -> list of labels"),
        ("padchest", "x.json", '{"a.png": "mass"}', r"a\.png: expected a list of labels"),
        ("padchest", "x.json", "{", "is no JSON"),
        ("chestxray14", "test_list.txt", "a.png 0 1 2\n", "line 1: expected a name and fourteen zeros and ones"),
        ("chestxray14", "Data_Entry_2017.csv", f"{ENTRY}\na.png,Wart,1\n", "unknown label 'Wart'"),
        ("chexpert", "groundtruth.csv", "Study,Atelectasis\n1,0\n", "there is no column 'Cardiomegaly'"),
        ("chestxdet10", "test.json", det("Wart", [[1, 2, 3, 4]]), "unknown class 'Wart'"),
        ("chestxdet10", "test.json", det("Mass", []), "1 classes and 0 boxes"),
        ("chestxdet10", "test.json", det("Mass", [[9, 2, 3, 4]]), "is no box"),
        ("mscxr", "test.json", '[{"image": "a", "phrase": "x", "box": [1,2]}]', "entry 0: expected an image, a phrase"),
        ("siim", "test.csv", "ImageId,EncodedPixels\na,1 2 3\n", "no pairs of start and length"),
        ("siim", "test.csv", "ImageId,EncodedPixels\na,1 x\n", "no whole numbers"),
        ("siim", "test.csv", "ImageId,EncodedPixels\na,900000 900000 5 5\n", "neither relative nor absolute"),
        ("rsna", "test.csv", "a,b\n1,2\n", "neither MedKLIP's columns"),
        ("rsna", "test.csv", "img_path,boxes\na.dcm,1;2;3\n", "is no box x;y;w;h"),
        ("rsna", "test.csv", "img_path,boxes\na.dcm,1;2;0;4\n", "a box of 0.0 x 4.0"),
        ("rsna", "test.csv", "img_path,boxes\na.dcm,1;2;nan;4\n", "'nan' is no finite number"),
        ("chexpert", "groundtruth.csv",
         "Study,Atelectasis,Cardiomegaly,Consolidation,Edema,Pleural Effusion\na,1,0,0,0,0\nb,1,0\n",
         "line 3 ends before column 'Consolidation'; fetch the file anew"),
    ],
)  # fmt: skip
def test_wrong_tables_are_named(name: str, file: str, content: str, said: str, tmp_path: Path):
    put(tmp_path / file, content)
    with pytest.raises(BenchmarkError, match=said):
        BENCHMARKS[name].module.read(tmp_path)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_an_empty_folder_is_told_what_it_lacks(name: str, tmp_path: Path):
    with pytest.raises(BenchmarkError, match="there is no"):
        BENCHMARKS[name].module.read(tmp_path)
    with pytest.raises(BenchmarkError, match="there is no such folder"):
        BENCHMARKS[name].module.read(tmp_path / "gone")


def test_images_listed_twice_are_refused(tmp_path: Path):
    put(tmp_path / "test_list.txt", ("a.png" + " 0" * 14 + "\n") * 2)
    with pytest.raises(BenchmarkError, match=r"1 images are listed twice, a\.png for one"):
        BENCHMARKS["chestxray14"].module.read(tmp_path)


def test_two_files_of_one_name_are_refused(tmp_path: Path, picture: bytes):
    chestxray14(tmp_path, picture, b"")
    put(tmp_path / "copy/00000000_000.png", picture)
    with pytest.raises(BenchmarkError, match="there are 2 such files"):
        BENCHMARKS["chestxray14"].module.read(tmp_path)


# -- the real annotation files -----------------------------------------------------------------------------


def rows(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def test_real_nih_files(shared_data: Path):
    folder = shared_data / "annotations/nih_chestxray14"
    found = BENCHMARKS["chestxray14"].module.read(folder)
    lines = (folder / "test_list_with_labels.sample2000.txt").read_text().splitlines()
    assert found.counts()["images"] == len(lines) == 2000
    sums = [sum(int(line.split()[1 + column]) for line in lines) for column in range(14)]
    assert found.truth.sum(axis=0).tolist() == sums
    listed = {line.split()[0] for line in lines}
    boxes = [row for row in rows(folder / "BBox_List_2017.csv")[1:] if row[0] in listed]
    assert sum(len(r.boxes) for r in found.regions) == len(boxes)
    assert len(found.missing) == 2000


def test_real_nih_boxes_parse_completely(shared_data: Path, tmp_path: Path):
    folder = shared_data / "annotations/nih_chestxray14"
    boxes = rows(folder / "BBox_List_2017.csv")[1:]
    assert len(boxes) == 979
    names = sorted({row[0] for row in boxes})
    put(tmp_path / "test_list.txt", "".join(f"{name}{' 0' * 14}\n" for name in names))
    put(tmp_path / "BBox_List_2017.csv", (folder / "BBox_List_2017.csv").read_bytes())
    found = BENCHMARKS["chestxray14"].module.read(tmp_path)
    assert sum(len(r.boxes) for r in found.regions) == 979
    assert all(0 <= b[0] < b[2] <= 1025 and 0 <= b[1] < b[3] <= 1025 for r in found.regions for b in r.boxes)
    assert {r.label for r in found.regions} == {
        "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("path", "entries"),
    [("chestx_det", 3025), ("no_licence_stated/chestx_det10", 3001)],
    ids=["chestx_det", "chestx_det10"],
)
def test_real_chestxdet_files(path: str, entries: int, shared_data: Path):
    folder = shared_data / "annotations" / path
    found = BENCHMARKS["chestxdet10"].module.read(folder)
    (file,) = folder.glob("*.json")
    raw = json.loads(file.read_text())
    assert len(found.images) == len(raw) == entries
    wanted = sum(sym in DET for entry in raw for sym in entry["syms"])
    assert sum(len(r.boxes) for r in found.regions) == wanted
    for column, name in enumerate(found.classes):
        assert int(found.truth[:, column].sum()) == sum(name in entry["syms"] for entry in raw)


def test_real_chexpert_file(shared_data: Path):
    folder = shared_data / "annotations/no_licence_stated/chexpert_test"
    found = BENCHMARKS["chexpert"].module.read(folder)
    table = rows(folder / "groundtruth.first250.csv")
    assert len(found.images) == len(table) - 1 == 250
    for column, name in enumerate(found.classes):
        place = table[0].index(name)
        assert int(found.truth[:, column].sum()) == sum(row[place] == "1" for row in table[1:])


def test_real_rsna_file(shared_data: Path):
    folder = shared_data / "annotations/rsna_pneumonia"
    found = BENCHMARKS["rsna"].module.read(folder)
    table = rows(folder / "stage_2_train_labels.sample.csv")[1:]
    assert len(found.images) == len({row[0] for row in table}) == 1650
    assert int(found.truth.sum()) == len({row[0] for row in table if row[5] == "1"})
    assert sum(len(r.boxes) for r in found.regions) == sum(row[5] == "1" for row in table)


def test_oracles_on_the_real_boxes(shared_data: Path, picture: bytes, tmp_path: Path):
    """Truth, opposite and chance on some of the real entries, with made pictures of the right size."""
    source = json.loads((shared_data / "annotations/chestx_det/ChestX_Det_train.json").read_text())
    chosen = random.Random(1).sample([e for e in source if e["syms"]], 30) + [e for e in source if not e["syms"]][:5]
    put(tmp_path / "d/test.json", json.dumps(chosen))
    for entry in chosen:
        put(tmp_path / "d" / entry["file_name"], picture)
    found = BENCHMARKS["chestxdet10"].module.read(tmp_path / "d")
    truth = score(run_benchmark(found, Oracle(found, "oracle"), tmp_path / "oracle"), resamples=50)
    opposite = score(run_benchmark(found, Oracle(found, "opposite"), tmp_path / "opposite"), resamples=50)
    assert truth["classification"]["macro AUC"][0] == truth["pointing"]["over classes"][0] == 1.0
    assert opposite["classification"]["macro AUC"][0] == opposite["pointing"]["over classes"][0] == 0.0


def test_real_films_with_boxes(shared_data: Path, tmp_path: Path):
    """The NIH films of the data pack with NIH's and RSNA's boxes."""
    found = BENCHMARKS["chestxray14"].module.read(shared_data / "images/nih_chestxray14")
    assert found.missing == ()
    assert (len(found.images), len({r.image for r in found.regions})) == (62, 23)
    assert all(read_radiograph(found.images[r.image].path).pixels.shape == (1024, 1024) for r in found.regions[:3])
    few = found.without([image.name for k, image in enumerate(found.images) if k % 4])
    metrics = score(run_benchmark(few, Oracle(few, "oracle"), tmp_path / "run"), resamples=50)
    assert metrics["classification"]["macro AUC"][0] == 1.0
    assert metrics["pointing"]["over pairs"][0] == metrics["segmentation"]["Dice"][0] == 1.0
