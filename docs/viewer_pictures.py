"""Make the docs' pictures of the viewer, in headless Chromium: a film with a right effusion, right beside left.

python docs/viewer_pictures.py docs/images
"""

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

from radzero.phantom.dicom import write_dicom
from radzero.phantom.film import make_film

SIZES = {"viewer.png": (1280, 800), "viewer-tablet.png": (820, 1180)}
QUESTIONS = ("There is right pleural effusion", "There is cardiomegaly")


def film_with(finding: str, side: str) -> int:
    """Index in series 990 of the first phantom that has this alone, plainly."""
    for index in range(1000):
        found = make_film(990, index, size=96).findings
        if [(f.name, f.side, f.grade) for f in found] == [(finding, side, "plain")]:
            return index
    raise LookupError(f"no film of the series has a {side} {finding} alone")


def take(link: str, folder: Path) -> None:
    """Ask the page both sides, and save what it shows at every size."""
    options = Options()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--force-device-scale-factor=1"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))

    def wait(condition: str) -> None:
        until = time.monotonic() + 60
        while not driver.execute_script(f"return {condition}"):
            if time.monotonic() > until:
                raise TimeoutError(f"{condition}: {driver.execute_script('return document.body.innerText')}")
            time.sleep(0.05)

    try:
        for name, (width, height) in SIZES.items():
            metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
            driver.get(link)
            wait("document.getElementById('window').textContent.includes('L')")
            for question in reversed(QUESTIONS):
                driver.find_element("id", "sentence").clear()
                driver.find_element("id", "sentence").send_keys(question)
                driver.find_element("css selector", "#ask button").click()
                wait(f"document.getElementById('answers').textContent.includes('{question}')")
                wait("document.getElementById('status').textContent.includes('answered')")
            driver.find_element("id", "other-side").click()
            wait("document.querySelectorAll('figure').length === 2")
            time.sleep(0.5)
            driver.save_screenshot(str(folder / name))
    finally:
        driver.quit()


def main() -> None:
    """Draw the film, open the page, take the pictures."""
    folder = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as films:
        path = Path(films) / "film.dcm"
        write_dicom(make_film(990, film_with("pleural effusion", "right"), size=1024), path)
        command = [sys.executable, "-u", "-m", "radzero.cli", "view", "--no-browser", str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as viewer:
            assert viewer.stdout is not None
            links = (re.search(r"http://127\.0\.0\.1:\d+/\?token=\S+", line) for line in viewer.stdout)
            try:
                take(next(found[0] for found in links if found), folder)
            finally:
                viewer.terminate()


if __name__ == "__main__":
    main()
