"""A service in a process of its own, as its users run it."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests


@dataclass
class Running:
    """A process that listens.

    Attributes:
        process: it.
        url: where, without a path.
        log: file of its standard error.
    """

    process: "subprocess.Popen[str]"
    url: str
    log: Path

    def stop(self, number: int = signal.SIGTERM, seconds: float = 60) -> int:
        """Signal it and wait; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(seconds)


@contextmanager
def running(folder: Path, *arguments: object) -> Iterator[Running]:
    """``radzero`` with arguments, once it says where it listens; ended afterwards in any case."""
    log = folder / f"{arguments[0]}-{time.monotonic_ns()}.log"
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "radzero.cli", *map(str, arguments)]
    with log.open("w") as errors, log.with_suffix(".out").open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=errors, text=True, env=environment)
        try:
            yield Running(process, _address(process, log), log)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def _address(process: "subprocess.Popen[str]", log: Path) -> str:
    until = time.monotonic() + 120
    while time.monotonic() < until:
        said = log.read_text()
        if found := re.search(r'"event": "listening", "host": "([^"]+)", "port": (\d+)', said):
            url = f"http://{found[1]}:{found[2]}"
            try:
                if requests.get(f"{url}/v1/ready", timeout=5).ok:
                    return url
            except requests.ConnectionError:
                pass
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise AssertionError(f"the service did not start: {log.read_text()}")
