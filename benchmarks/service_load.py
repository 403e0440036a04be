"""Load on a service: 64 clients for a minute, with batching and one film at a time, in the same run.

    python benchmarks/service_load.py [--seconds 60] [--clients 64] [--cache-mib 256] [--model FOLDER]

Each client sends one film after the other; no file is sent twice, so no cache answers for the model. Prints the answers
per second of both, their ratio, statuses, latencies, the highest memory in each third of the time (films are kept up to
--cache-mib, so it must end growing), and how far the answers are from those of `radzero predict`.
"""

import argparse
import io
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
import requests
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from radzero.phantom.film import make_film
from service.running import running

SENTENCE = "There is right pleural effusion"


def films(count: int) -> list[bytes]:
    contents = []
    for index in range(count):
        buffer = io.BytesIO()
        Image.fromarray((make_film(77, index, size=256).pixels * 255).astype(np.uint8)).save(buffer, "PNG")
        contents.append(buffer.getvalue())
    return contents


def measure(
    contents: list[bytes], clients: int, seconds: float, options: list[object], folder: Path
) -> dict[str, object]:
    statuses: Counter[object] = Counter()
    latencies: list[float] = []
    logits: dict[int, list[float]] = {}
    lock, going = threading.Lock(), threading.Event()
    going.set()
    with running(folder, "serve", "--port", 0, *options) as service:
        process = psutil.Process(service.process.pid)

        def client(number: int) -> None:
            session, k = requests.Session(), number
            while going.is_set():
                index, started = k % len(contents), time.perf_counter()
                content = contents[index] + b"%d" % k  # bytes after a picture's end make it another file
                k += clients
                try:
                    answer = session.post(
                        f"{service.url}/v1/predict",
                        files={"file": ("f.png", content)},
                        data={"sentence": SENTENCE},
                        timeout=120,
                    )
                except requests.RequestException as error:
                    with lock:
                        statuses[type(error).__name__] += 1
                    continue
                with lock:
                    statuses[answer.status_code] += 1
                    if answer.ok:
                        latencies.append(time.perf_counter() - started)
                        logits.setdefault(index, []).append(answer.json()["sentences"][0]["logit"])
                if answer.status_code == 429:
                    time.sleep(float(answer.headers["retry-after"]))

        threads = [threading.Thread(target=client, args=(k,)) for k in range(clients)]
        started = time.perf_counter()
        for thread in threads:
            thread.start()
        peaks = [0, 0, 0]
        while (passed := time.perf_counter() - started) < seconds:
            third = int(3 * passed / seconds)
            peaks[third] = max(peaks[third], process.memory_info().rss)
            time.sleep(0.25)
        going.clear()
        for thread in threads:
            thread.join()
        elapsed = time.perf_counter() - started
    return {
        "rate": statuses[200] / elapsed,
        "statuses": dict(statuses),
        "median": float(np.median(latencies)),
        "p99": float(np.percentile(latencies, 99)),
        "MiB": [round(peak / 2**20) for peak in peaks],
        "logits": logits,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--cache-mib", type=int, default=256)
    parser.add_argument("--model")
    chosen = parser.parse_args()
    contents = films(48)
    common: list[object] = ["--cache-mib", chosen.cache_mib, *(["-m", chosen.model] if chosen.model else [])]
    rates = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, options in (("one at a time", ["--max-batch", 1]), ("batching", [])):
            found = measure(contents, chosen.clients, chosen.seconds, [*common, *options], Path(folder))
            logits = found.pop("logits")
            rates[name] = found["rate"]
            print(f"{name}: {found}", flush=True)
        expected = predicted(contents, chosen.model, Path(folder))
    print(f"batching answers {rates['batching'] / rates['one at a time']:.2f} times as many")
    worst = max(abs(value - expected[index]) for index, values in logits.items() for value in values)
    print(f"largest difference of a logit from the command line's: {worst:.2g}")


def predicted(contents: list[bytes], model: str | None, folder: Path) -> list[float]:
    """Logits of `radzero predict`, film by film."""
    films = folder / "films"
    films.mkdir()
    for index, content in enumerate(contents):
        (films / f"{index:03d}.png").write_bytes(content)
    command = [
        sys.executable,
        "-m",
        "radzero.cli",
        "predict",
        films,
        "-s",
        SENTENCE,
        "-o",
        folder / "out",
        "--no-overlays",
    ]
    subprocess.run([*command, *(["--model", model] if model else [])], check=True, capture_output=True)
    lines = (folder / "out" / "predictions.jsonl").read_text().splitlines()
    answers = {Path(said["image"]).stem: said["sentences"][0]["logit"] for said in map(json.loads, lines)}
    return [answers[f"{index:03d}"] for index in range(len(contents))]


if __name__ == "__main__":
    main()
