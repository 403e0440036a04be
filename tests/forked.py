"""Processes for tests that are killed, watched or many: forked from a server that has imported the library once.

A Python that starts anew spends some four seconds of a core on importing torch and transformers. These processes are
forked from one that has done that, and otherwise behave as if they had been started by a command line: their own
arguments, environment, folder, output and exit code, and signals end them as they end any process.
"""

import multiprocessing
import os
import runpy
import signal
import socket
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["radzero.training.trainer", "radzero.service.app", "radzero.cli"])


@dataclass(frozen=True)
class Done:
    """How a process ended: its exit code, negative for a signal, and what it wrote."""

    returncode: int
    stdout: str
    stderr: str


class CrashedError(Exception):
    """A process that was ended by a fault in native code."""


class Forked:
    """A running process, to be used as ``subprocess.Popen`` is.

    Args:
        command: arguments of ``radzero``, or a script's path with its arguments, or "-c", code and arguments.
        folder: where its output is kept, in ``out-<n>.txt`` and ``err-<n>.txt``.
        environment: variables besides this process's own.
    """

    def __init__(self, command: Sequence[object], folder: Path, environment: Mapping[str, str] | None = None) -> None:
        number = len(list(folder.glob("out-*.txt")))
        self.output, self.errors = folder / f"out-{number}.txt", folder / f"err-{number}.txt"
        for path in (self.output, self.errors):
            path.touch()
        given = [str(argument) for argument in command]
        arguments = (given, dict(environment or {}), os.getcwd(), str(self.output), str(self.errors))
        self._process = _CONTEXT.Process(target=_run, args=arguments)
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float = 120) -> int:
        """The exit code, when it has ended."""
        self._process.join(timeout)
        code = self._process.exitcode
        assert code is not None, f"still running after {timeout} s: {self.errors.read_text()[-2000:]}"
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, if it still runs."""
        if self._process.is_alive():
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)

    def lines(self) -> list[str]:
        """The whole lines that it has written to its standard output."""
        return [
            line for line in self.output.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")
        ]

    def wait_for_lines(self, count: int, timeout: float = 120) -> None:
        """Wait until it has written so many lines, or has ended."""
        deadline = time.monotonic() + timeout
        while len(self.lines()) < count and self.poll() is None:
            assert time.monotonic() < deadline, self.errors.read_text()[-2000:]
            time.sleep(0.005)


def run(
    command: Sequence[object], folder: Path, environment: Mapping[str, str] | None = None, timeout: float = 300
) -> Done:
    """Run a process to its end."""
    process = Forked(command, folder, environment)
    code = process.wait(timeout)
    return Done(code, process.output.read_text(encoding="utf-8"), process.errors.read_text(encoding="utf-8"))


def run_world(command: Sequence[object], world: int, folder: Path) -> None:
    """Run a command on several processes of one gloo group, as torchrun starts them; each must end with 0."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    shared = {
        **{
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "WORLD_SIZE": str(world),
            "LOCAL_WORLD_SIZE": str(world),
        },
        **{"ACCELERATE_USE_CPU": "true", "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"},
    }
    ranks = []
    for rank in range(world):
        (folder / f"rank-{rank}").mkdir(exist_ok=True)
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        ranks.append(Forked(command, folder / f"rank-{rank}", shared | own))
    codes = [rank.wait(300) for rank in ranks]
    said = "\n".join(rank.errors.read_text(encoding="utf-8")[-3000:] for rank in ranks)
    if {-signal.SIGABRT, -signal.SIGSEGV} & set(codes):
        raise CrashedError(said)
    assert codes == [0] * world, said


def _run(command: list[str], environment: dict[str, str], folder: str, output: str, errors: str) -> None:
    """What the forked process does."""
    import torch

    os.environ.update(environment)
    os.chdir(folder)
    for descriptor, path in ((1, output), (2, errors)):
        opened = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.dup2(opened, descriptor)
        os.close(opened)
    sys.stdin = open(os.devnull)  # noqa: SIM115
    sys.stdout, sys.stderr = (os.fdopen(os.dup(n), "w", buffering=1, encoding="utf-8") for n in (1, 2))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if threads := environment.get("OMP_NUM_THREADS"):
        torch.set_num_threads(int(threads))
    try:
        if command[0] == "-c":
            sys.argv = ["-c", *command[2:]]
            exec(compile(command[1], "<string>", "exec"), {"__name__": "__main__"})
        elif command[0].endswith(".py"):
            sys.argv = command
            runpy.run_path(command[0], run_name="__main__")
        else:
            import radzero.cli.console

            sys.argv = ["radzero", *command]
            radzero.cli.console.console.file, radzero.cli.console.errors.file = sys.stdout, sys.stderr
            radzero.cli.main()
    except SystemExit:
        raise
    except BaseException:
        traceback.print_exc()
        raise SystemExit(1) from None
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
