"""A new sentence on a film that is kept, beside reading the film again, through the service, in the same run.

python benchmarks/viewer_latency.py [--model FOLDER] [--film FILE]
"""

import argparse
import io
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import requests

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from radzero.phantom.dicom import to_dataset
from radzero.phantom.film import make_film
from service.running import running

SIDES = ("left", "right")
PLACES = ("upper", "middle", "lower")
FINDINGS = ("consolidation", "nodule", "mass", "fibrosis", "atelectasis")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model")
    parser.add_argument("--film", type=Path)
    chosen = parser.parse_args()
    if chosen.film:
        content = chosen.film.read_bytes()
    else:
        buffer = io.BytesIO()
        to_dataset(make_film(3, 1, size=2048)).save_as(buffer, enforce_file_format=True)
        content = buffer.getvalue()
    sentences = [f"There is {f} in the {s} {p} lung zone" for f in FINDINGS for s in SIDES for p in PLACES]
    options: list[object] = ["-m", chosen.model] if chosen.model else []
    asked, read = [], []
    with tempfile.TemporaryDirectory() as folder, running(Path(folder), "serve", "--port", 0, *options) as service:
        session = requests.Session()
        film = session.post(f"{service.url}/v1/films", files={"file": ("f.dcm", content)}, timeout=60).json()
        for k, sentence in enumerate(sentences):
            started = time.perf_counter()
            answer = session.post(
                f"{service.url}/v1/films/{film['id']}/ask", json={"sentences": [sentence], "maps": True}, timeout=60
            )
            asked.append(time.perf_counter() - started)
            assert answer.ok
            other = content + b"\0" * 2 * (k + 1)  # another file to the cache
            started = time.perf_counter()
            answer = session.post(
                f"{service.url}/v1/predict?maps=true",
                files={"file": ("f.dcm", other)},
                data={"sentence": sentence.replace("There is", "There is no")},
                timeout=60,
            )
            read.append(time.perf_counter() - started)
            assert answer.ok, answer.text
    print(
        f"a new sentence: median {1000 * np.median(asked):.1f} ms, 95 % below {1000 * np.percentile(asked, 95):.1f} ms"
    )
    ratio = np.median(read) / np.median(asked)
    print(f"reading the film again: median {1000 * np.median(read):.1f} ms, {ratio:.1f} times as long")


if __name__ == "__main__":
    main()
