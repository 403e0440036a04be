"""Worker processes end with their work, with an error, and with a parent that was killed."""

import os
import subprocess
import sys
import time
from multiprocessing import active_children

import psutil
import pytest

from radzero._processes import process_pool


def test_work_is_done_elsewhere_and_in_order():
    with process_pool(2, os.putenv, "RADZERO_TEST", "1") as pool:
        assert list(pool.map(abs, range(-3, 3))) == [3, 2, 1, 0, 1, 2]
        assert pool.submit(os.getpid).result() != os.getpid()
    assert active_children() == []


def test_an_error_ends_the_workers_at_once():
    def interrupted() -> None:
        with process_pool(1) as pool:
            assert pool.submit(abs, -1).result() == 1
            pool.submit(time.sleep, 60)
            raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert time.monotonic() - started < 30
    assert active_children() == []


def test_workers_of_a_killed_parent_end():
    code = """
import os, time
from radzero._processes import process_pool
with process_pool(2) as pool:
    found = [pool.submit(os.getpid) for _ in range(2)]
    print(*{job.result() for job in found}, flush=True)
    time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout:
        workers = [psutil.Process(int(number)) for number in parent.stdout.readline().split()]
        assert workers
        parent.kill()
        parent.wait()
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive
