"""Fetch checkpoints from a model hub: only the files that are needed, once, into the hub's own cache."""

import io
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import logging as hub_logging
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from tqdm.std import tqdm

from radzero._files import write_whole
from radzero.models.errors import CheckpointError
from radzero.models.tensors import INDEX, WEIGHTS, weight_names

NEEDED = (
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "tokenizer.model",
    "sentencepiece.bpe.model",
)
"""The files that a checkpoint is read from, besides its weights. A published repository holds more: report sentences,
label files, code."""


def split_revision(source: str) -> tuple[str, str | None]:
    """Split "owner/name@revision" at the "@"; without a revision, return the source and None."""
    name, mark, revision = source.partition("@")
    return (name, revision) if mark and revision else (source, None)


def fetch(
    source: str,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    *,
    weights: bool = True,
) -> Path:
    """Return the folder of a hub id's files, which are fetched where the cache lacks them.

    One progress bar on standard error shows the download. Shards are not fetched from a repository that has
    ``model.safetensors``.

    Args:
        source: "owner/name", or "owner/name@revision".
        revision: branch, tag or commit; where ``source`` names none either, None means the main branch.
        cache_dir: folder for fetched files; the hub's usual folder when None.
        token: token for the hub; the one of the user's login when None.
        local_files_only: use the cache alone, without contacting the hub.
        weights: whether the weights are needed too.

    Raises:
        CheckpointError: when the files cannot be had; the message is one line that says what to do.
    """
    name, named = split_revision(source)
    if revision and named and revision != named:
        raise CheckpointError(f"{source}: names revision {named}, and {revision} is asked for; name one")
    revision = revision or named
    options: dict[str, Any] = {"cache_dir": cache_dir, "token": token, "local_files_only": local_files_only}
    unanswered: Exception | None = None
    try:
        with _quiet(), _Bar() as bar:
            if not local_files_only and not constants.is_offline_mode() and not _COMMIT.fullmatch(revision or ""):
                try:
                    revision = _ask_commit(name, revision or "main", token, cache_dir)
                except (httpx2.HTTPError, OSError) as error:
                    if not _is_outage(error):
                        raise
                    unanswered, options["local_files_only"] = error, True  # the cache may suffice
            folder = Path(
                snapshot_download(
                    name,
                    revision=revision,
                    allow_patterns=[*NEEDED, *((WEIGHTS, INDEX) if weights else ())],
                    tqdm_class=bar.kind,
                    **options,
                )
            )
            if weights and (shards := weight_names(folder)) != [WEIGHTS]:
                # the folder's name is its commit, so the hub need not be asked for it again
                snapshot_download(name, revision=folder.name, allow_patterns=shards, tqdm_class=bar.kind, **options)
    except (HfHubHTTPError, HFValidationError, httpx2.HTTPError, OSError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{source}: {_reason(unanswered or error, revision, local_files_only)}") from error
    return folder


_COMMIT = re.compile(r"[0-9a-f]{40}")
_PATIENCE_S = 10.0


def folder_of(source: str, *, revision: str | None = None, local_files_only: bool = False) -> Path:
    """Return ``source`` where it is a folder, or else the folder of the hub id.

    Raises:
        CheckpointError: see :func:`fetch`.
    """
    return Path(source) if Path(source).is_dir() else fetch(source, revision, local_files_only=local_files_only)


def _ask_commit(name: str, revision: str, token: str | bool | None, cache_dir: str | Path | None) -> str:
    """Ask the hub for the commit of a branch or tag, and note it in the cache for use without internet.

    The request has a time limit: without one, the hub's client would wait for ever where the hub does not answer, such
    as behind a firewall.
    """
    commit = HfApi(token=token).repo_info(name, revision=revision, timeout=_PATIENCE_S).sha
    if not commit or not _COMMIT.fullmatch(commit):
        raise ValueError(f"the hub named no commit, but {commit!r}")
    root = Path(cache_dir or constants.HF_HUB_CACHE).expanduser()
    reference = root / repo_folder_name(repo_id=name, repo_type="model") / "refs" / revision
    with suppress(OSError):  # a cache that this user may not write to can still be read
        reference.parent.mkdir(parents=True, exist_ok=True)
        write_whole(reference, commit.encode())
    return commit


def _is_outage(error: Exception) -> bool:
    """Return whether the hub is out of reach, too slow, out of order (status 500 or above) or limits requests (429)."""
    if isinstance(error, HfHubHTTPError):
        return error.response is not None and (error.response.status_code >= 500 or error.response.status_code == 429)
    return isinstance(error, httpx2.TransportError)


def _reason(error: Exception, revision: str | None, local_files_only: bool) -> str:
    """Return one line that says what went wrong and what to do."""
    sign_in = "log in (`hf auth login`) or set HF_TOKEN"
    if isinstance(error, HFValidationError):
        return "no such folder, and not a hub id (owner/name) either"
    if isinstance(error, GatedRepoError):
        return f"is gated: accept its terms on its page at the hub, then {sign_in}"
    if isinstance(error, RevisionNotFoundError):
        return f"the hub has no revision {revision} of it; a branch, a tag or a commit's whole hash is one"
    if isinstance(error, RepositoryNotFoundError):
        return f"no such folder, and the hub knows no such model, or refuses this token. Where it is private, {sign_in}"
    if isinstance(error, LocalEntryNotFoundError):
        if local_files_only or _offline(error):
            return (
                "no such folder, and not, or not wholly, in this machine's cache of the hub, which is not to be asked. "
                "Fetch it once with internet, or copy the model's folder here and name it"
            )
        return (
            "no such folder, and the hub cannot be asked. Try again later; on a machine without internet, copy the "
            "model's folder there and name it"
        )
    if isinstance(error, HfHubHTTPError) and error.response is not None:
        status = error.response.status_code
        if status in (401, 403):
            return f"no such folder, and the hub refuses to give such a model (status {status}): {sign_in}"
        return f"the hub answered with status {status}; try again later: files that are fetched already are kept"
    what = " ".join(str(error).split())[:200] or type(error).__name__
    if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.ReadTimeout):
        return (
            f"no such folder, and the hub does not answer ({what}). Try again later; on a machine without internet, "
            "copy the model's folder there and name it"
        )
    if isinstance(error, httpx2.HTTPError):
        return (
            f"the connection to the hub broke off ({what}). Run the same again: files that are fetched already are kept"
        )
    return f"cannot be fetched ({what}). Run the same again: files that are fetched already are kept"


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the hub client's own warnings; the error's one line says what matters."""
    before = hub_logging.get_verbosity()
    hub_logging.set_verbosity_error()
    try:
        yield
    finally:
        hub_logging.set_verbosity(before)


def _offline(error: BaseException) -> bool:
    return isinstance(error.__cause__, OfflineModeIsEnabled)


class _Bar:
    """One progress bar for all files; none appears where nothing is fetched or the hub's own setting forbids bars.

    ``kind`` is a subclass of tqdm, to which the hub's client reports from several threads.
    """

    def __init__(self) -> None:
        hidden = os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS", "").upper() in ("1", "ON", "YES", "TRUE")
        self._progress = Progress(
            TextColumn("fetching"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=hidden or os.environ.get("RANK", "0") != "0",  # under torchrun, only rank 0 shows it
        )
        self._task: Any = None
        self._lock = threading.Lock()
        outer = self

        class Counter(tqdm):
            """A silent counter; counts of bytes are shown in the one bar."""

            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **(kwargs | {"file": io.StringIO()}))

            def update(self, n: float | None = 1) -> bool | None:
                shown = super().update(n)
                if self.unit == "B" and self.total:
                    outer._show(self.n, self.total)
                return shown

        self.kind = Counter

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *_: object) -> None:
        if self._task is not None:
            self._progress.stop()

    def _show(self, done: float, total: float) -> None:
        with self._lock:
            if self._task is None:
                self._task = self._progress.add_task("fetching", total=total)
                self._progress.start()
        self._progress.update(self._task, completed=done, total=total)
