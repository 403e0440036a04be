"""A service in a process of its own, as its users run it."""

import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests

from forked import Forked


@dataclass
class Running:
    """A process that listens.

    Attributes:
        process: it.
        url: where, without a path.
        log: file of its standard error.
    """

    process: Forked
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
    process = Forked(arguments, folder, {"OMP_NUM_THREADS": "2"})
    try:
        yield Running(process, _address(process, process.errors), process.errors)
    finally:
        process.kill()
        process.wait()


def _address(process: Forked, log: Path) -> str:
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
