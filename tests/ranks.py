"""Work that is done by several processes of one gloo group, on one machine."""

import gc
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run_ranks(work: Callable[..., Any], world: int, folder: Path, *arguments: object) -> list[Any]:
    """What ``work(rank, world, *arguments)``, a function of a module, gives in each of ``world`` processes.

    The processes are forked from a server that has imported what they need, once per test session. Each ends its group
    in earnest, all of its threads included: one that is late, on a busy machine, would abort a process whose
    interpreter has ended.
    """
    import forked  # noqa: F401  # which says what the server imports

    mp.start_processes(_run_rank, (work, world, str(folder), arguments), nprocs=world, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt") for rank in range(world)]


def _run_rank(rank: int, work: Callable[..., Any], world: int, folder: str, arguments: tuple[object, ...]) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    torch.save(work(rank, world, *arguments), f"{folder}/{rank}.pt")
    gc.collect()  # wrapped models hold the group, in cycles
    dist.destroy_process_group()
    assert_no_gloo_thread_is_left()


def assert_no_gloo_thread_is_left(patience: float = 30.0) -> None:
    """The system lists a thread for a moment after it was joined."""
    deadline = time.monotonic() + patience
    while left := [name for name in _thread_names() if "gloo" in name]:
        assert time.monotonic() < deadline, left
        time.sleep(0.01)


def _thread_names() -> list[str]:
    names = []
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            names.append((task / "comm").read_text().strip())
    return names
