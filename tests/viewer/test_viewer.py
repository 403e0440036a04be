"""The page in a real Chromium, on loopback, with the service in a process of its own."""

import base64
import io
import json
import re
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pydicom
import pytest
from PIL import Image

from forked import Forked
from radzero.phantom.dicom import write_dicom
from radzero.phantom.film import make_film
from radzero.prediction.model import RadZero, load

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium and chromium-driver (Debian) are not installed"),
]
RIGHT, LEFT = "There is right pleural effusion", "There is left pleural effusion"


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DICOM film with a name that is a script, and a PNG."""
    folder = tmp_path_factory.mktemp("films")
    film = make_film(7, 3, size=256)
    write_dicom(film, folder / "film.dcm")
    ds = pydicom.dcmread(folder / "film.dcm")
    ds.BodyPartExamined = "CHEST"
    ds.PatientName = "<img src=x onerror=alert(1)>"
    ds.SeriesDescription = "<script>document.title='broken'</script>"
    ds.save_as(folder / "film.dcm")
    Image.fromarray((make_film(7, 4, size=256).pixels * 255).astype(np.uint8)).save(folder / "film.png")
    return folder


@pytest.fixture(scope="module")
def link(films: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of ``radzero view`` with the packaged model, which offers the DICOM film."""
    command = ["view", "--no-browser", films / "film.dcm"]
    process = Forked(command, tmp_path_factory.mktemp("log"), {"OMP_NUM_THREADS": "2"})
    try:
        process.wait_for_lines(1)
        found = re.search(r"http://127\.0\.0\.1:\d+/\?token=\S+", process.output.read_text())
        assert found, process.errors.read_text()
        yield found[0]
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


class Page:
    """The page, and what a person does with it."""

    def __init__(self, driver: Any, downloads: Path) -> None:
        self.driver, self.downloads = driver, downloads

    def find(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def all(self, selector: str) -> list[Any]:
        return self.driver.find_elements("css selector", selector)

    def wait(self, what: Any, seconds: float = 30) -> Any:
        """Wait until a condition holds. The page may draw an element anew between its being found and read."""
        from selenium.common.exceptions import StaleElementReferenceException

        until = time.monotonic() + seconds
        while True:
            with suppress(StaleElementReferenceException):
                if value := what():
                    return value
            assert time.monotonic() < until, self.find("#status").text
            time.sleep(0.05)

    def ask(self, sentence: str) -> None:
        self.find("#sentence").clear()
        self.find("#sentence").send_keys(sentence)
        self.find("#ask button").click()
        self.wait(lambda: sentence in self.answers())
        self.wait(lambda: "answered" in self.find("#status").text)

    def answers(self) -> dict[str, str]:
        """Sentences and what is shown of them, read at once: the page may draw the list anew at any time."""
        buttons = "[...document.querySelectorAll('#answers .choose')]"
        code = f"return {buttons}.map((b) => [...b.children].map((c) => c.textContent))"
        return {said[0]: said[1] for said in self.driver.execute_script(code)}

    def captions(self) -> list[str]:
        code = "return [...document.querySelectorAll('figcaption .said')].map((c) => c.textContent)"
        return list(self.driver.execute_script(code))

    def pixels(self, pane: int = 0) -> np.ndarray:
        """What a pane shows, (H, W, 3)."""
        self.driver.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
        code = "return document.querySelectorAll('canvas.film')[arguments[0]].toDataURL('image/png')"
        data = self.driver.execute_script(code, pane).split(",")[1]
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")).astype(int)

    def script(self, code: str, *arguments: Any) -> Any:
        return self.driver.execute_script(code, *arguments)

    def said(self) -> str:
        return str(self.find("#status").text)

    def open(self, *paths: Path) -> None:
        """Add films, and wait for what becomes of the first."""
        before = len(self.all("#films button"))
        self.find("#files").send_keys("\n".join(map(str, paths)))
        self.wait(lambda: len(self.all("#films button")) == before + len(paths))

    def choose(self, name: str) -> None:
        """Click a film of the list, and wait until it is shown."""
        self.click_film(name)
        self.wait(lambda: self.find("canvas.film").get_attribute("aria-label").startswith(name))

    def click_film(self, name: str) -> None:
        """At once: the page may draw the list anew at any time."""
        buttons = "[...document.querySelectorAll('#films button')]"
        self.script(f"{buttons}.find((b) => b.firstChild.textContent === arguments[0]).click()", name)

    def hold(self, ending: str) -> None:
        """Keep the page's requests to such addresses waiting until ``go_on``; only here, so the service is not busy."""
        self.script(
            "const [ending] = arguments; const real = window.fetch; window.held = [];"
            "window.goOn = () => { window.fetch = real; for (const done of window.held) done(); };"
            "window.fetch = async (url, options) => {"
            "  if (url.endsWith(ending)) await new Promise((done) => { window.held.push(done); });"
            "  return real(url, options);"
            "};",
            ending,
        )

    def begin_with(self, answers: dict[str, Any]) -> None:
        """Load the page anew; the service's answers to such addresses are these."""
        code = (
            f"const made = {json.dumps(answers)}; const real = window.fetch;"
            "window.fetch = async (url, options) =>"
            "  url in made ? new Response(JSON.stringify(made[url])) : real(url, options);"
        )
        self.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": code})
        self.driver.refresh()
        self.wait(lambda: self.find("#model").text)

    def wait_for_held(self) -> None:
        self.wait(lambda: self.script("return window.held.length > 0"))

    def go_on(self) -> None:
        self.script("window.goOn()")

    def downloaded(self, name: str) -> Path:
        path = self.downloads / name
        self.wait(lambda: path.is_file() and path.stat().st_size)
        return path


@contextmanager
def browser(downloads: Path) -> Iterator[Any]:
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = str(CHROMIUM)
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--force-device-scale-factor=1"):
        options.add_argument(argument)
    several = "profile.default_content_setting_values.automatic_downloads"
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads), several: 1})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    try:
        resize(driver, 1280, 800)
        yield driver
    finally:
        driver.quit()


@pytest.fixture(scope="module")
def one_browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with browser(tmp_path_factory.mktemp("downloads")) as driver:
        yield driver


@pytest.fixture
def page(link: str, one_browser: Any, tmp_path: Path) -> Iterator[Page]:
    """The page in a window of its own: it keeps nothing in the browser that another window would see."""
    driver = one_browser
    first = driver.current_window_handle
    driver.switch_to.new_window("window")
    try:
        resize(driver, 1280, 800)
        driver.execute_cdp_cmd("Page.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
        driver.get(link)
        page = Page(driver, tmp_path)
        page.wait(lambda: "L" in page.find("#window").text)
        yield page
        assert [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []
        urls = requested(driver)
        assert urls
        assert {re.match(r"(\w+:)(//[^/:]*)?", url)[0] for url in urls} <= {"http://127.0.0.1", "blob:", "data:"}
        assert driver.execute_script("return localStorage.length + sessionStorage.length") == 0
    finally:
        for kind in ("browser", "performance"):
            driver.get_log(kind)
        driver.close()
        driver.switch_to.window(first)


def resize(driver: Any, width: int, height: int) -> None:
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def requested(driver: Any) -> list[str]:
    """Every address that the page has asked for."""
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    return [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]


@pytest.fixture(scope="module")
def model() -> RadZero:
    return load(device="cpu")


def test_ask_a_dicom_film_and_a_png(page: Page, films: Path, model: RadZero):
    assert page.find("#notice").text == model.notice
    page.ask(RIGHT)
    page.ask(LEFT)
    reading = model.predict(films / "film.dcm", [RIGHT, LEFT])[0]
    for sentence, probability in zip(reading.sentences, reading.probabilities, strict=True):
        shown = page.answers()[sentence]
        percent = 100 * float(probability)
        assert shown == ("< 0.1 %" if percent < 0.1 else "> 99.9 %" if percent > 99.9 else f"{percent:.1f} %")
    page.open(films / "film.png")
    page.wait(lambda: "film.png" in page.find("canvas.film").get_attribute("aria-label"))
    page.wait(lambda: all(page.answers().values()))
    reading = model.predict(films / "film.png", RIGHT)[0]
    assert float(page.answers()[RIGHT].strip("<> %")) == pytest.approx(100 * float(reading.probabilities[0]), abs=0.11)
    assert page.find("#notice").is_displayed()


def test_the_value_under_the_pointer_is_the_maps(page: Page, films: Path, model: RadZero):
    from selenium.webdriver import ActionChains

    page.ask(RIGHT)
    reading = model.predict(films / "film.dcm", RIGHT)[0]
    stored = pydicom.dcmread(films / "film.dcm").pixel_array
    canvas = page.find("canvas.film")
    for dx, dy in ((0, 0), (-60, 40), (35, -80), (90, 110)):
        ActionChains(page.driver).move_to_element_with_offset(canvas, dx, dy).perform()
        found = page.wait(lambda: re.match(r"x (\d+), y (\d+): (\S+)", page.find("#cursor").text))
        x, y = int(found[1]), int(found[2])
        assert float(found[3]) == pytest.approx(stored[y, x], rel=0.01)
        shown = float(page.find("#value").text.split()[-1])
        assert shown == pytest.approx(float(reading.map(0)[y, x]), abs=6e-4)


def test_the_value_under_the_pointer_follows_what_is_shown(page: Page, films: Path, model: RadZero):
    from selenium.webdriver import ActionChains

    page.ask(LEFT)
    page.ask(RIGHT)
    page.open(films / "film.png")
    page.choose("film.dcm")
    page.wait(lambda: page.captions() == [RIGHT])
    canvas, body = page.find("canvas.film"), page.find("body")
    ActionChains(page.driver).move_to_element_with_offset(canvas, -50, 60).perform()

    def check(name: str, sentence: str) -> tuple[int, int]:
        page.pixels()  # and so the next frame
        found = re.match(r"x (\d+), y (\d+): (\S+)", page.find("#cursor").text)
        x, y = int(found[1]), int(found[2])
        shown = float(page.find("#value").text.split()[-1])
        assert shown == pytest.approx(float(model.predict(films / name, sentence)[0].map(0)[y, x]), abs=6e-4)
        return x, y

    begun = check("film.dcm", RIGHT)
    body.send_keys("\ue013")  # the answer above
    page.wait(lambda: page.captions() == [LEFT])
    places = {check("film.dcm", LEFT)}
    for key in ("+", "\ue008\ue014", "-"):  # shift and right
        body.send_keys(key)
        places.add(check("film.dcm", LEFT))
    assert len(places) == 4
    body.send_keys("0")
    assert check("film.dcm", LEFT) == pytest.approx(begun, abs=5)
    body.send_keys("\ue00f")  # the next film
    page.wait(lambda: page.captions() == [LEFT] and page.find("#value").text)
    check("film.png", LEFT)
    ActionChains(page.driver).move_to_element(page.find("#sentence")).perform()
    body.send_keys("+")
    page.pixels()
    assert page.find("#cursor").text == page.find("#value").text == ""
    body.send_keys("v")
    middle = check("film.png", LEFT)
    body.send_keys("\ue008\ue014")
    assert check("film.png", LEFT) != middle


@pytest.mark.parametrize(("photometric", "padding"), [("MONOCHROME1", 0), ("MONOCHROME2", 4095)])
def test_padding_stays_black(page: Page, films: Path, photometric: str, padding: int):
    from selenium.webdriver import ActionChains

    ds = pydicom.dcmread(films / "film.dcm")
    stored = ds.pixel_array.clip(1, 4094)
    stored[:, :40] = padding
    ds.PixelData = stored.tobytes()
    ds.PhotometricInterpretation = photometric
    ds.add_new("PixelPaddingValue", "US", padding)
    ds.save_as(page.downloads / "padded.dcm")
    page.open(page.downloads / "padded.dcm")
    page.choose("padded.dcm")

    def shown() -> tuple[np.ndarray, np.ndarray]:
        """Padding with its rim, and the film's first column beyond its middle."""
        drawn = page.pixels()[:, :, 0]
        middle = drawn.shape[0] // 2
        row = drawn[middle - 20 : middle + 20]
        zoom = int(re.search(r"(\d+) %", page.find("#window").text)[1]) / 100
        left = drawn.shape[1] / 2 - stored.shape[1] * zoom / 2
        return row[:, : int(left + 38 * zoom)], row[:, int(left + 42 * zoom) : int(left + 200 * zoom)]

    assert shown()[0].max() == 0
    drag(page, 0, -60)
    black, film = shown()
    assert black.max() == 0
    assert film.mean() > 60
    page.find("#invert").click()
    assert shown()[0].max() == 0
    page.find("#reset").click()
    page.find("#invert").click()
    assert shown()[0].max() == 0
    zoom = int(re.search(r"(\d+) %", page.find("#window").text)[1]) / 100
    offset = round((20 - stored.shape[1] / 2) * zoom)
    ActionChains(page.driver).move_to_element_with_offset(page.find("canvas.film"), offset, 0).perform()
    page.wait(lambda: page.find("#cursor").text.endswith(": padding"))


def test_the_film_is_first_shown_as_the_model_saw_it(page: Page, films: Path, model: RadZero):
    film = model.predict(films / "film.dcm", RIGHT)[0].film
    page.driver.execute_script("document.getElementById('actual').click()")
    shown = page.pixels()
    height, width = shown.shape[:2]
    top, left = (height - film.shape[0]) // 2, (width - film.shape[1]) // 2
    around = [  # half a pixel either way, where a side is odd
        shown[top + dy : top + dy + film.shape[0], left + dx : left + dx + film.shape[1], 0]
        for dy in (0, 1)
        for dx in (0, 1)
    ]
    assert min(np.abs(part - film).max() for part in around) <= 1


def drag(page: Page, dx: int, dy: int) -> None:
    from selenium.webdriver import ActionChains

    canvas = page.find("canvas.film")
    ActionChains(page.driver).move_to_element(canvas).click_and_hold().move_by_offset(dx, dy).release().perform()


def test_window_level_zoom_pan_invert(page: Page):
    before = page.pixels()
    assert "(as the model saw it)" in page.find("#window").text
    drag(page, 0, -120)  # up: a lower level, a brighter film
    brighter = page.pixels()
    assert brighter.mean() > before.mean() + 5
    assert "(as the model saw it)" not in page.find("#window").text
    drag(page, -150, 0)  # left: a narrower window, more contrast
    assert int(re.match(r"W (\d+)", page.find("#window").text)[1]) < 4096
    page.find("#reset").click()
    assert np.array_equal(page.pixels(), before)
    page.find("#invert").click()
    inverted = page.pixels()
    assert page.find("#invert").get_attribute("aria-pressed") == "true"
    middle = (slice(200, 400), slice(300, 400))
    assert np.abs(inverted[middle] + before[middle] - 255).mean() < 1.5
    page.find("#invert").click()
    page.find("[data-tool=pan]").click()
    drag(page, 50, 30)
    moved = page.pixels()
    assert np.abs(moved[130:330, 250:450] - before[100:300, 200:400]).mean() < 1
    page.find("#fit").click()
    assert np.array_equal(page.pixels(), before)
    page.find("[data-tool=zoom]").click()
    drag(page, 0, -100)
    assert int(re.search(r"(\d+) %", page.find("#window").text)[1]) > 150
    page.find("#fit").click()


def test_threshold_and_parts_of_the_map(page: Page):
    page.ask(RIGHT)
    for part in ("peak", "contour"):
        page.find(f"#show-{part}").click()
    plain = page.pixels()
    page.find("#show-contour").click()

    def outlined(threshold: int) -> int:
        page.driver.execute_script(
            "const slider = document.getElementById('threshold');"
            "slider.value = arguments[0]; slider.dispatchEvent(new Event('input'))",
            threshold,
        )
        assert page.find("#threshold-value").text == f"{threshold / 100:.2f}"
        return int((np.abs(page.pixels() - plain).sum(axis=2) > 60).sum())

    assert outlined(1) != outlined(60)
    page.find("#show-map").click()
    assert not np.array_equal(page.pixels(), plain)


def test_nothing_of_one_film_stands_on_another(page: Page, films: Path):
    page.ask(RIGHT)
    page.hold("/ask")
    page.find("#details summary").click()
    page.open(films / "film.png")
    page.choose("film.png")
    page.wait_for_held()
    assert page.captions() == [""]
    assert set(page.answers().values()) == {""}
    assert page.find("canvas.film").get_attribute("aria-label") == "film.png, no sentence asked"
    assert "film.png" in page.find("#facts").text
    assert "Modality" not in page.find("#facts").text.title()
    assert not page.find("#save-picture").is_enabled()
    drawn = page.pixels()
    assert np.abs(drawn - drawn.mean(axis=2, keepdims=True)).max() <= 2  # grey: no map, contour or peak
    page.go_on()
    page.wait(lambda: page.captions() == [RIGHT])
    assert page.find("#save-picture").is_enabled()


def test_a_file_that_changes_is_read_anew(page: Page, films: Path, model: RadZero):
    page.ask(RIGHT)
    before = (films / "film.dcm").read_bytes()
    lose = (
        "const asked = performance.getEntriesByType('resource').map((entry) => entry.name);"
        "const known = asked.map((name) => name.match(/films.([^/]+).(pixels|ask)/)?.[1]);"
        "fetch(`v1/films/${known.filter(Boolean).at(-1)}`, { method: 'DELETE' }).then(arguments[0])"
    )
    try:
        page.driver.execute_async_script(lose)
        page.ask(LEFT)
        assert "changed" not in page.said()
        write_dicom(make_film(7, 9, size=224), films / "film.dcm")
        sentences = [RIGHT, LEFT, "There is cardiomegaly"]
        reading = model.predict(films / "film.dcm", sentences)[0]
        page.driver.execute_async_script(lose)
        page.ask(sentences[-1])
        assert "The file has changed" in page.said()
        for sentence, probability in zip(reading.sentences, reading.probabilities, strict=True):
            shown = page.answers()[sentence].strip("<> %")
            assert float(shown) == pytest.approx(100 * float(probability), abs=0.11)
        height, width = reading.film.shape
        assert f"{width} × {height}" in page.find("#facts").get_attribute("textContent")
        for part in ("map", "contour", "peak"):
            page.find(f"#show-{part}").click()
        page.script("document.getElementById('actual').click()")
        shown = page.pixels()[:, :, 0]
        top, left = (shown.shape[0] - height) // 2, (shown.shape[1] - width) // 2
        around = [shown[top + dy :, left + dx :][:height, :width] for dy in (0, 1) for dx in (0, 1)]
        assert min(np.abs(part - reading.film).max() for part in around) <= 1
        page.driver.execute_async_script(lose)
        write_dicom(make_film(7, 10, size=224), films / "film.dcm")
        page.find("#save-dicom").click()
        page.wait(lambda: "No DICOM results were written" in page.said())
        assert "has changed" in page.find("#film-notes").text
        assert page.find("#save-dicom").is_enabled()
        assert forgive(page, "404")
    finally:
        (films / "film.dcm").write_bytes(before)


def forgive(page: Page, status: str) -> bool:
    """Whether all that Chromium itself notes is that an answer had this status."""
    entries = page.driver.get_log("browser")
    return all(status in entry["message"] for entry in entries)


def test_more_sentences_than_one_request_may_hold(page: Page, films: Path):
    names = [f"nodule number {k}" for k in range(270)]
    page.begin_with({"v1/findings": {"many": names}})
    page.wait(lambda: page.find("#save-json").is_enabled())
    page.find("#set").send_keys("many")
    assert page.answers() == {}  # a set is asked when that is asked for: keys go through the list
    page.find("#ask-set button").click()
    page.wait(lambda: "270 answered" in page.said())
    assert "270 with warnings, see Answers" in page.said()
    assert page.script(
        "const list = document.getElementById('answers').getBoundingClientRect();"
        "const chosen = document.querySelector('#answers [aria-current=true]').getBoundingClientRect();"
        "return chosen.top >= list.top - 1 && chosen.bottom <= list.bottom + 1"
    )
    page.open(films / "film.png")
    page.choose("film.png")
    page.wait(lambda: len(page.answers()) == 270 and all(page.answers().values()))


def test_what_is_cleared_while_it_is_asked_is_not_shown(page: Page):
    page.hold("/ask")
    page.find("#sentence").send_keys(RIGHT + "\n")
    page.wait_for_held()
    page.script("document.getElementById('clear').disabled = false; document.getElementById('clear').click()")
    page.go_on()
    page.wait(lambda: page.said() == "")
    assert (page.captions(), page.answers()) == ([""], {})
    page.ask(LEFT)
    assert (page.captions(), list(page.answers())) == ([LEFT], [LEFT])


def test_a_sentence_before_any_film(page: Page, films: Path):
    page.begin_with({"v1/library": []})
    page.find("#sentence").send_keys(RIGHT + "\n")
    assert "Open a film" in page.said()
    page.open(films / "film.png")
    page.wait(lambda: page.captions() == [RIGHT])
    assert page.all("#answers [aria-current=true]")[0].text.startswith(RIGHT)
    shown = page.pixels()
    assert np.abs(shown - shown.mean(axis=2, keepdims=True)).max() > 50  # colours of the map


def test_a_film_is_sent_once_and_a_file_that_is_gone_is_said(page: Page, films: Path):
    other, gone = (Path(shutil.copy(films / "film.png", page.downloads / name)) for name in ("other.png", "gone.png"))
    page.hold("v1/films")
    page.open(other, gone)
    for _ in range(3):
        page.click_film("other.png")
    page.wait_for_held()
    page.pixels()  # some frames later
    assert page.script("return window.held.length") == 1
    page.go_on()
    page.wait(lambda: page.find("canvas.film").get_attribute("aria-label").startswith("other.png"))
    gone.unlink()
    page.click_film("gone.png")
    page.wait(lambda: "gone.png cannot be read any more" in page.said())


def test_unknown_words_are_said_with_the_answer(page: Page):
    page.ask("There is a flibbertigibbet")
    page.ask(RIGHT)
    said = page.driver.execute_script(
        "return [...document.querySelectorAll('#answers .warning')].map((w) => w.textContent)"
    )
    assert len(said) == 1
    assert "flibbertigibbet" in said[0]
    page.find("#save-json").click()
    sentences = json.loads(page.downloaded("film.json").read_text())["sentences"]
    assert [len(answer["warnings"]) for answer in sentences] == [1, 0]


def test_focus_stays_where_it_was(page: Page):
    page.ask(RIGHT)
    page.ask(LEFT)
    first = page.all("#answers .choose")[0]
    page.driver.execute_script("arguments[0].focus()", first)
    page.driver.switch_to.active_element.send_keys("\n")
    page.wait(lambda: page.captions() == [RIGHT])
    assert "right" in page.driver.switch_to.active_element.text
    before = page.pixels()
    page.find("canvas.film").send_keys("w")
    assert not np.array_equal(page.pixels(), before)
    page.find("canvas.film").send_keys("v")
    assert page.find("#value").text.startswith("similarity")


def test_a_peak_below_the_threshold_is_faint(page: Page):
    page.ask(RIGHT)
    for part in ("map", "contour"):
        page.find(f"#show-{part}").click()
    page.find("#show-peak").click()
    plain = page.pixels()
    page.find("#show-peak").click()

    def marked(threshold: float) -> int:
        page.driver.execute_script(
            "const slider = document.getElementById('threshold');"
            "slider.value = arguments[0]; slider.dispatchEvent(new Event('input'))",
            threshold,
        )
        return int((np.abs(page.pixels() - plain).sum(axis=2) > 60).sum())

    assert marked(99) < marked(1) / 3
    assert marked(99) > 0


def test_sides_and_negation_beside_each_other(page: Page):
    page.ask(RIGHT)
    page.find("#other-side").click()
    page.wait(lambda: len(page.all("figure")) == 2)
    assert page.captions() == [RIGHT, LEFT]
    page.find("body").send_keys("n")
    page.wait(lambda: "There is no right pleural effusion" in page.answers())
    page.wait(lambda: page.captions() == [RIGHT, "There is no right pleural effusion"])


def test_keys(page: Page):
    page.ask(RIGHT)
    page.ask(LEFT)
    body = page.find("body")
    page.driver.execute_script("document.activeElement.blur()")
    body.send_keys("\ue013")  # up
    page.wait(lambda: page.captions() == [RIGHT])
    body.send_keys("m")
    assert not page.find("#show-map").is_selected()
    body.send_keys("]")
    assert page.find("#threshold-value").text == "0.55"
    body.send_keys("?")
    assert page.find("#keys").is_displayed()
    page.find("#keys button").click()
    body.send_keys("/")
    assert page.driver.switch_to.active_element.get_attribute("id") == "sentence"


def test_exports(page: Page, model: RadZero):
    page.ask(RIGHT)
    page.find("#save-picture").click()
    with Image.open(page.downloaded("film.png")) as picture:
        assert picture.width > 500
    page.find("#save-json").click()
    said = json.loads(page.downloaded("film.json").read_text())
    assert said["notice"] == model.notice
    assert said["sentences"][0]["sentence"] == RIGHT
    page.find("#save-dicom").click()
    assert page.downloaded("film-dicom.zip").read_bytes()[:2] == b"PK"


def test_what_is_saved_has_its_own_films_name(page: Page, films: Path):
    other = shutil.copy(films / "film.png", page.downloads / "other.png")
    page.open(other)
    page.choose("film.dcm")
    page.ask(RIGHT)
    page.hold("/results")
    page.find("#save-dicom").click()
    page.script(
        "const real = HTMLCanvasElement.prototype.toBlob;"
        "HTMLCanvasElement.prototype.toBlob = function (done) {"
        "  real.call(this, (blob) => { window.held.push(() => done(blob)); });"
        "};"
    )
    page.find("#save-picture").click()
    page.wait(lambda: page.script("return window.held.length === 2"))
    page.choose("other.png")
    page.wait(lambda: page.captions() == [RIGHT])
    page.wait(lambda: page.said() == "")  # nothing of the film before
    page.go_on()
    assert page.downloaded("film-dicom.zip").read_bytes()[:2] == b"PK"
    page.wait(lambda: page.said() == "film.dcm: DICOM results of 1 sentence written")
    page.downloaded("film.png")


def test_header_texts_are_texts(page: Page):
    page.find("#details summary").click()
    assert page.driver.title == "RadZero viewer"
    assert page.all("#facts img, #facts script") == []
    assert "onerror" not in page.driver.page_source  # no name of a patient comes to the page at all


def test_a_file_that_is_no_film_is_said(page: Page, tmp_path: Path):
    (tmp_path / "notes.txt").write_text("no film")
    page.open(tmp_path / "notes.txt")
    page.wait(lambda: "neither DICOM nor PNG" in page.said())
    assert page.said().startswith("1 file added; ")
    assert "neither DICOM nor PNG" in page.find("#warnings").text
    assert forgive(page, "422")


def test_the_first_film_of_several_files_is_opened(page: Page, films: Path):
    (page.downloads / "notes.txt").write_text("no film")
    page.open(page.downloads / "notes.txt", films / "film.png")
    page.wait(lambda: page.said() == "2 files added")
    assert page.find("canvas.film").get_attribute("aria-label").startswith("film.png")
    listed = {button.text: button.get_attribute("title") for button in page.all("#films button")}
    assert list(listed) == ["film.dcm", "notes.txt cannot be read", "film.png"]
    assert "neither DICOM nor PNG" in listed["notes.txt cannot be read"]
    assert forgive(page, "422")


def test_warnings_of_a_film_stay_beside_it(page: Page, films: Path):
    from axe_core_python.selenium import Axe

    ds = pydicom.dcmread(films / "film.dcm")
    ds.PhotometricInterpretation = "MONOCHROME1"
    ds.save_as(page.downloads / "negative.dcm")
    assert not page.find("#film-notes").is_displayed()
    page.open(page.downloads / "negative.dcm")
    page.wait(lambda: "may be inverted" in page.find("#film-notes").text)
    page.ask(RIGHT)
    assert "may be inverted" not in page.said()
    assert "may be inverted" in page.find("#film-notes").text
    found = Axe().run(page.driver)
    assert [problem for problem in found["violations"] if problem["impact"] in ("serious", "critical")] == []
    assert any("may be inverted" in text for text, *_ in saved_texts(page, "negative.png")[0])
    page.choose("film.dcm")
    page.wait(lambda: page.find("#save-json").is_enabled())
    assert not page.find("#film-notes").is_displayed()


def saved_texts(page: Page, name: str) -> tuple[list[tuple[str, float, float, float]], tuple[int, int], float]:
    """Of a picture that is saved: its texts with x, y and width, its size, and where films and scale end."""
    page.script(
        "const { prototype } = CanvasRenderingContext2D; const { fillText, drawImage } = prototype;"
        "window.texts = []; window.ends = [];"
        "prototype.fillText = function (text, x, y, ...most) {"
        "  const width = most[0] ?? this.measureText(text).width;"
        "  if (!this.canvas.isConnected && this.canvas.width > 100) window.texts.push([text, x, y, width]);"
        "  fillText.call(this, text, x, y, ...most);"
        "};"
        "prototype.drawImage = function (image, x, y) {"
        "  window.ends.push(y + image.height);"
        "  drawImage.call(this, image, x, y);"
        "};"
    )
    page.script("document.getElementById('save-picture').click()")
    with Image.open(page.downloaded(name)) as picture:
        size = picture.size
    return [tuple(text) for text in page.script("return window.texts")], size, max(page.script("return window.ends"))


def test_long_texts_leave_room_for_the_film(page: Page, model: RadZero):
    words = (f"flibbertigibbet{chr(97 + k // 26)}{chr(97 + k % 26)}" for k in range(200))  # all different, each named
    sentence = ("There is " + " ".join(words))[:2000].strip()
    page.find("#sentence").clear()
    page.script("document.getElementById('sentence').value = arguments[0]", sentence)
    page.find("#ask button").click()
    page.wait(lambda: "answered" in page.said())
    heights = "return [...document.querySelectorAll('#status, canvas.film')].map((part) => part.clientHeight)"
    canvas, status = page.script(heights)
    assert canvas > 450
    assert status <= 75
    assert page.find("#status").get_attribute("tabindex") == "0"
    resize(page.driver, 390, 844)
    texts, (width, height), end = saved_texts(page, "film.png")
    assert width >= 640
    assert all(x + size <= width for _, x, _, size in texts)
    assert all(y <= height for *_, y, _ in texts)
    above = " ".join(text for text, _, y, _ in texts if y < end)
    assert " ".join(above.split()).count(sentence) == 1  # whole
    assert above.endswith("reads the first 64 only")
    assert "do not trust its answer" in above
    below = " ".join(text for text, _, y, _ in texts if y > end)
    assert below.endswith(model.notice)


def test_of_many_films_the_page_keeps_the_last_ones(page: Page, films: Path):
    """The others are read again when they are chosen, with the answers and the window that they had."""
    source = "new URL('state.js', document.querySelector('script[type=module]').src).href"
    keep = f"import({source}).then(({{ limits }}) => {{ limits.pixels = arguments[0]; }}).then(arguments[1])"
    sent = "return performance.getEntriesByType('resource').filter((one) => one.name.endsWith('pixels')).length"
    page.ask(RIGHT)
    page.find("body").send_keys("iW")
    shown, answers, window = page.pixels(), page.answers(), page.find("#window").text
    page.driver.execute_async_script(keep, 1)
    page.open(films / "film.png")
    page.wait(lambda: page.find("canvas.film").get_attribute("aria-label").startswith("film.png"))
    before = page.script(sent)
    page.choose("film.dcm")
    assert page.script(sent) == before + 1
    assert page.answers() == answers
    assert page.find("#window").text == window
    assert (page.pixels() == shown).all()
    page.driver.execute_async_script(keep, 128e6)
    page.choose("film.png")
    page.choose("film.dcm")
    assert page.script(sent) == before + 2
    gone = page.downloads / "gone.png"
    shutil.copy(films / "film.png", gone)
    page.open(gone)
    page.choose("gone.png")
    page.driver.execute_async_script(keep, 1)
    page.choose("film.dcm")
    gone.unlink()
    page.click_film("gone.png")
    page.wait(lambda: "cannot be read any more" in page.said())
    assert page.captions() == [""]  # no answer beside a film that is not there
    assert set(page.answers().values()) == {""}
    for control in ("#save-dicom", "#save-json", "#other-side", "#negation"):
        assert not page.find(control).is_enabled()


def test_a_very_wide_film_is_seen_whole_and_smaller(page: Page):
    gradient = np.tile(np.linspace(0, 255, 60_000).astype(np.uint8), (40, 1))
    Image.fromarray(gradient).save(page.downloads / "wide.png")
    page.open(page.downloads / "wide.png")
    page.wait(lambda: page.find("canvas.film").get_attribute("aria-label").startswith("wide.png"))

    def zoom() -> float:
        page.pixels()
        return float(re.search(r"([\d.]+) %", page.find("#window").text)[1])

    fitted = zoom()
    drawn = page.pixels()[:, :, 0]
    assert drawn[:, :3].max() == drawn[:, -3:].max() == 0  # black beside both ends
    page.find("body").send_keys("-")
    assert zoom() < fitted
    page.find("body").send_keys("0")
    assert zoom() == fitted


def test_nothing_is_hidden_on_a_phone(page: Page):
    resize(page.driver, 390, 844)
    page.ask(RIGHT)
    for end, control in ((0, "#films button"), (100_000, "#save-json")):
        page.script("document.querySelector('main').scrollTop = arguments[0]", end)
        assert page.script(
            "const at = (part) => part.getBoundingClientRect();"
            "const [notice, main, status] = ['#notice', 'main', '#status'].map((s) => at(document.querySelector(s)));"
            "const control = document.querySelector(arguments[0]); const box = at(control);"
            "const seen = document.elementFromPoint(box.left + box.width / 2, box.top + box.height / 2);"
            "return notice.top >= 0 && notice.bottom <= main.top && main.bottom <= status.top &&"
            "  status.bottom <= innerHeight && seen === control",
            control,
        )


@pytest.mark.parametrize("size", [(1280, 800), (820, 1180), (390, 800)])
def test_accessible_and_whole_at_every_size(page: Page, size: tuple[int, int]):
    from axe_core_python.selenium import Axe

    resize(page.driver, *size)
    page.ask(RIGHT)
    page.find("#other-side").click()
    page.wait(lambda: len(page.all("figure")) == 2)
    found = Axe().run(page.driver)
    serious = [problem for problem in found["violations"] if problem["impact"] in ("serious", "critical")]
    assert serious == []
    width = page.driver.execute_script("return document.documentElement.scrollWidth")
    assert width <= size[0]
    cut = "[...document.querySelectorAll('figcaption .said, #model')].filter((part) =>"
    cut += " part.scrollHeight > part.clientHeight + 1 || part.scrollWidth > part.clientWidth)"
    assert page.script(f"return {cut}.map((part) => part.textContent)") == []
    labels = page.script("return [...document.querySelectorAll('.checks label')].map((label) => label.offsetHeight)")
    assert max(labels) < 30
    ends = "['#scale', 'figure:last-child canvas'].map((s) => document.querySelector(s).getBoundingClientRect().bottom)"
    scale, film = page.script(f"return {ends}")
    assert scale <= film + 1
    layout = "['tools', 'light-box', 'readout'].map((id) => document.getElementById(id).offsetHeight)"
    before = page.script(f"return {layout}")
    page.find("canvas.film").send_keys("w")
    page.pixels()
    assert "(as the model saw it)" not in page.find("#window").text
    page.find("canvas.film").send_keys("v")
    assert page.script(f"return {layout}") == before  # no text makes the picture jump
    page.driver.save_screenshot(str(page.downloads / f"{size[0]}x{size[1]}.png"))


def test_the_link_alone_opens_the_page(link: str):
    import requests

    url = link.split("?")[0]
    assert requests.get(url, timeout=10).status_code == 401
    assert requests.get(f"{url}v1/library", timeout=10).status_code == 401


def test_the_key_is_in_no_browser_s_arguments(page: Page, link: str, monkeypatch: pytest.MonkeyPatch):
    """What every user of a machine can read of a browser is its command line."""
    from radzero.viewer.opening import opened_in_browser

    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    page.driver.delete_all_cookies()
    with opened_in_browser(link):
        (address,) = opened
        assert link.split("token=")[1] not in address
        path = Path(unquote(urlsplit(address).path))
        assert path.parent.stat().st_mode & 0o077 == 0
        page.driver.get(address)
        page.wait(lambda: page.driver.current_url == link.split("?")[0] and page.find("#model").text)
        page.wait(lambda: page.answers() == {} and page.find("#films button").text == "film.dcm")
        page.driver.get_log("performance")  # where the file's own address is
    page.ask(RIGHT)
    assert not path.exists()


def test_films_can_be_told_apart(page: Page, films: Path):
    from radzero.viewer import film_labels

    paths = [Path("/a/x/1.dcm"), Path("/b/x/1.dcm"), Path("/b/x/2.dcm"), Path("/1.dcm")]
    assert film_labels(paths) == ["a/x/1.dcm", "b/x/1.dcm", "2.dcm", "1.dcm"]
    other = page.downloads / "other"
    other.mkdir()
    for name in ("film.dcm", "1.2.840.99.1"):
        shutil.copy(films / "film.dcm", other / name)
        page.open(other / name)
    page.choose("1.2.840.99.1")
    page.find("#save-json").click()
    assert json.loads(page.downloaded("1.2.840.99.1.json").read_text())["film"] == "1.2.840.99.1"
    page.click_film("film.dcm (2)")
    page.wait(lambda: page.find("#save-json").is_enabled())
    page.find("#save-json").click()
    assert json.loads(page.downloaded("film (2).json").read_text())["film"] == "film.dcm (2)"


def test_films_and_sentences_are_taken_off_their_lists(page: Page, films: Path):
    page.open(films / "film.png")
    page.choose("film.png")
    for sentence in (RIGHT, LEFT, "There is cardiomegaly"):
        page.ask(sentence)
    page.choose("film.dcm")
    page.script("[...document.querySelectorAll('#answers .choose')][1].click()")
    page.wait(lambda: page.captions() == [LEFT])
    page.find("#remove").click()
    assert list(page.answers()) == [RIGHT, "There is cardiomegaly"]
    page.wait(lambda: page.captions() == ["There is cardiomegaly"])
    page.find("#close").click()
    page.wait(lambda: page.said() == "film.dcm closed")
    page.wait(lambda: page.find("canvas.film").get_attribute("aria-label").startswith("film.png"))
    assert all(page.answers().values())
    page.find("#close").click()
    assert page.find("#empty").is_displayed()
    assert page.find("canvas.film").get_attribute("aria-label") == "no film"
    assert page.pixels().max() == 0
    assert not page.find("#close").is_enabled()


@pytest.mark.parametrize(
    "strange", ["There is\u00a0large cavity", "There is a 'small' \"shadow\"", "There is \u202ecavity"]
)
def test_a_warning_stands_under_its_own_sentence(page: Page, films: Path, strange: str):
    page.open(films / "film.png")
    page.ask(RIGHT)
    page.script("document.getElementById('sentence').value = arguments[0]", strange)
    page.find("#ask button").click()
    page.wait(lambda: strange in page.answers())
    page.choose("film.dcm")  # where both are asked at once
    page.wait(lambda: all(page.answers().values()))
    page.find("#save-json").click()
    said = json.loads(page.downloaded("film.json").read_text())["sentences"]
    warned = {answer["sentence"]: answer["warnings"] for answer in said}
    assert warned[RIGHT] == []
    assert [text.startswith("this model has never seen the word") for text in warned[strange]] == [True]


@pytest.mark.parametrize(
    ("text", "other", "denied"),
    [
        (RIGHT, LEFT, "There is no right pleural effusion"),
        ("There are no nodules", None, "There are nodules"),
        ("There is a pneumothorax", None, "There is no pneumothorax"),
        ("THERE IS RIGHT EFFUSION", "THERE IS LEFT EFFUSION", "THERE IS no RIGHT EFFUSION"),
        ("Left lower lobe opacity", "Right lower lobe opacity", None),
        ("There is right effusion and no left effusion", None, None),
        ("There is no right or left effusion", None, None),
        ("There is nothing abnormal", None, None),
        ("There is not a mass", None, None),
        ("There is no longer effusion", None, None),
        ("There are two nodules", None, None),
        ("There is hardly any right effusion", "There is hardly any left effusion", None),
    ],
)
def test_counterparts(counterparts: Any, text: str, other: str | None, denied: str | None):
    assert counterparts(text) == [other, denied]


@pytest.fixture(scope="module")
def counterparts(link: str, one_browser: Any) -> Any:
    """Other side and negation of a sentence, by the page's own functions."""
    one_browser.get(link)
    code = "import('./counterparts.js').then((m) => [m.otherSide(arguments[0]), m.negation(arguments[0])])"
    return lambda text: one_browser.execute_async_script(f"{code}.then(arguments[1])", text)


def fingers(page: Page, *frames: list[tuple[float, float]]) -> None:
    """Touch the film: every frame says where the fingers are, from its middle; one more or fewer lands or is lifted."""
    left, top, width, height = page.script(
        "const box = document.querySelector('canvas.film').getBoundingClientRect();"
        "return [box.left, box.top, box.width, box.height]"
    )
    down = 0
    for frame in [*frames, []]:
        points = [{"x": left + width / 2 + x, "y": top + height / 2 + y, "id": k} for k, (x, y) in enumerate(frame)]
        kind = "touchStart" if len(frame) > down else "touchEnd" if len(frame) < down else "touchMove"
        page.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        down = len(frame)


def pointed(page: Page) -> tuple[int, int]:
    page.pixels()
    found = re.match(r"x (\d+), y (\d+): ", page.find("#cursor").text)
    return int(found[1]), int(found[2])


def test_fingers(page: Page):
    resize(page.driver, 820, 1180)
    page.pixels()
    page.find("body").send_keys("+")
    window = page.find("#window").text
    zoom = float(re.search(r"([\d.]+) %", window)[1]) / 100
    fingers(page, [(30, -20)])  # a tap reads the value there
    x, y = pointed(page)
    fingers(page, [(-90, 60)], [(-86, 64)], [(-90, 60)])  # no finger rests quite still
    assert page.find("#window").text == window
    both = [(-70.0, 0.0), (70.0, 0.0)]
    fingers(page, both, [(-20.0, 0.0), (70.0, 0.0)], [(-20.0, 0.0), (120.0, 0.0)])  # both to the right
    fingers(page, [(30 + 50, -20)])
    assert pointed(page) == pytest.approx((x, y), abs=2 / zoom)
    fingers(page, [(-20.0, 0.0)])
    held = pointed(page)
    fingers(page, [(-20.0, 0.0)], [(-20.0, 0.0), (60.0, 0.0)], [(-20.0, 0.0), (140.0, 0.0)], [(-34.0, 20.0)])
    assert page.find("#window").text.split(" · ")[0] == window.split(" · ")[0]  # the last finger slipped: no window
    assert float(re.search(r"([\d.]+) %", page.find("#window").text)[1]) == pytest.approx(200 * zoom, rel=0.02)
    fingers(page, [(-20.0, 0.0)])
    assert pointed(page) == pytest.approx(held, abs=2)
    fingers(page, [(0, 0)], [(20, 0)], [(80, 0)])
    assert page.find("#window").text.split(" · ")[0] != window.split(" · ")[0]


def test_the_view_is_kept_where_it_is_compared(page: Page):
    page.ask(RIGHT)
    for _ in range(4):
        page.find("body").send_keys("+")
    page.pixels()
    zoom = page.find("#window").text
    page.find("#other-side").click()
    page.wait(lambda: len(page.all("figure")) == 2)
    page.pixels()
    assert page.find("#window").text == zoom
    for _ in range(60):
        page.find("body").send_keys("\ue008\ue014")  # shift and right: the film goes left, but not out of sight
    assert page.pixels().max() > 0


def test_what_is_changed_is_not_called_the_models(page: Page, films: Path):
    assert "as the model saw it" in page.find("#window").text
    page.find("#invert").click()
    page.pixels()
    assert "as the model saw it" not in page.find("#window").text
    page.find("#save-json").click()
    assert json.loads(page.downloaded("film.json").read_text())["view"]["changed"] is True


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_down_darkens_every_film(page: Page, films: Path, photometric: str):
    ds = pydicom.dcmread(films / "film.dcm")
    ds.PhotometricInterpretation = photometric
    ds.save_as(page.downloads / "drawn.dcm")
    page.open(page.downloads / "drawn.dcm")
    page.choose("drawn.dcm")
    before = page.pixels().mean()
    drag(page, 0, 60)
    assert page.pixels().mean() < before - 5


def test_one_to_one_is_the_screen_s(page: Page, films: Path, model: RadZero):
    metrics = {"width": 1280, "height": 800, "deviceScaleFactor": 2, "mobile": False}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    page.find("#actual").click()
    drawn = page.pixels()[:, :, 0]
    film = model.predict(films / "film.dcm", RIGHT)[0].film
    assert page.find("#window").text.endswith("· 100 %")
    (top, left), (height, width) = [(s - f) // 2 for s, f in zip(drawn.shape, film.shape, strict=True)], film.shape
    around = [drawn[top + dy :, left + dx :][:height, :width] for dy in (0, 1) for dx in (0, 1)]
    assert min(np.abs(part - film).max() for part in around) <= 1


def test_keys_whatever_caps_lock_says(page: Page):
    def width() -> float:
        page.pixels()
        return float(re.match(r"W (\S+) ", page.find("#window").text)[1])

    first = width()
    page.script("document.body.dispatchEvent(new KeyboardEvent('keydown', { key: 'W', bubbles: true }))")
    narrower = width()
    page.script(
        "document.body.dispatchEvent(new KeyboardEvent('keydown', { key: 'w', shiftKey: true, bubbles: true }))"
    )
    assert narrower < first
    assert width() > narrower
    page.ask(RIGHT)
    page.find("#threshold").send_keys("v")  # sliders keep the keys that move them, and no others
    assert re.match(r"x \d+, y \d+: \S+; similarity [\d.]+$", page.said())


def test_forced_colours_show_what_is_on(page: Page):
    page.ask(RIGHT)
    features = [{"name": "forced-colors", "value": "active"}]
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    ground = "return getComputedStyle(document.querySelector(arguments[0])).backgroundColor"
    assert page.script(ground, "[data-tool=window]") != page.script(ground, "[data-tool=pan]")
    assert page.script(ground, "#answers [aria-current=true]") != page.script(ground, "#fit")
    assert page.script(ground, "#light-box") == "rgb(0, 0, 0)"


@pytest.mark.parametrize("size", [(640, 400), (844, 390)])
def test_a_low_screen_shows_the_whole_film(page: Page, size: tuple[int, int]):
    resize(page.driver, *size)
    page.ask(RIGHT)
    heights = "['main', '#light-box', 'canvas.film'].map((part) => document.querySelector(part).clientHeight)"
    room, box, film = page.script(f"return {heights}")
    assert box <= room
    assert film >= 100
