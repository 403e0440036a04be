"""Define the verbs that work with a PACS: ``dicomweb``, ``listen``."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from radzero.cli.console import (
    DeviceOption,
    FindingsOption,
    LocalOption,
    ModelOption,
    Precision,
    PrecisionOption,
    RevisionOption,
    SentenceOption,
    console,
    counted,
    errors_in_words,
    fail,
    interruptible,
    progress_bars,
    say,
    warn,
)
from radzero.results.kinds import KIND_NAMES

ResultsOption = Annotated[
    str, typer.Option("--results", help=f"Kinds of results to store: all, or some of {KIND_NAMES}.")
]
ThresholdOption = Annotated[
    float, typer.Option(min=0.0, max=1.0, help="Similarity from which a pixel belongs to a region.")
]


def dicomweb(
    url: Annotated[str, typer.Argument(help="URL of the server, such as http://localhost:8042/dicom-web.")],
    state: Annotated[
        Path, typer.Option("--state", help="Folder that records what was done; one run at a time can use it.")
    ],
    sentence: SentenceOption = None,
    findings: FindingsOption = None,
    modality: Annotated[str, typer.Option(help="Modalities of films, between commas.")] = "CR,DX",
    query: Annotated[
        list[str] | None, typer.Option(help="Further QIDO keys: StudyDate=20260101-, PatientID=..., ...")
    ] = None,
    results: ResultsOption = "seg,sr",
    threshold: ThresholdOption = 0.5,
    store_url: Annotated[
        str | None, typer.Option(help="Server that results are stored on; the same server if not given.")
    ] = None,
    watch: Annotated[
        float | None,
        typer.Option(min=1, help="Seconds between two passes over the server, until Ctrl-C; one pass if not given."),
    ] = None,
    model: ModelOption = None,
    revision: RevisionOption = None,
    local_files_only: LocalOption = False,
    device: DeviceOption = None,
    precision: PrecisionOption = Precision.HIGHEST,
) -> None:
    """Ask the films of a DICOMweb server, and store the results there. Needs 'radzero[dicom]'.

    Goes on where an interrupted run stopped; a result is stored once. Credentials come from the environment:
    RADZERO_DICOMWEB_TOKEN, or RADZERO_DICOMWEB_USER and RADZERO_DICOMWEB_PASSWORD; those of another server for the
    results from RADZERO_DICOMWEB_STORE_TOKEN, ..._USER and ..._PASSWORD. Exit code 0: every film has its
    results; 1: some were refused, by name; 2: nothing could be done, or the server went away.
    """
    import sqlite3

    with errors_in_words(RuntimeError):
        from radzero.pacs.dicomweb import open_servers
        from radzero.pacs.polling import poll, query_keys
        from radzero.pacs.process import UnreachableError

        keys = query_keys(query or [])
        source, target = open_servers(url, store_url)
        for server in {source.name: source, target.name: target}.values():
            _warn_unless_encrypted(server)
        hub = {"revision": revision, "local_files_only": local_files_only}
        processor = _processor(sentence, findings, results, threshold, target, state, model, device, precision, **hub)
    modalities = tuple(part.strip().upper() for part in modality.split(",") if part.strip())
    with interruptible(), progress_bars() as progress:
        bar = progress.add_task("films", total=None)

        def on_problem(kind: str, why: str) -> None:
            colour = "yellow" if kind == "warning" else "red"
            text = f"[red]{escape(why)}[/]" if kind == "unreachable" else f"[{colour}]{kind}[/] {escape(why)}"
            progress.console.print(text, highlight=False, soft_wrap=True)

        try:
            poll(
                source,
                processor,
                modalities,
                keys,
                watch=watch,
                on_image=lambda: progress.advance(bar),
                on_problem=on_problem,
            )
        except (UnreachableError, OSError, sqlite3.Error) as error:
            raise fail(f"{error}; give the command again to go on") from error
        finally:
            processor.ledger.close()
            say(_tally(processor.tally))
    if processor.tally.refused or processor.tally.failed:
        raise typer.Exit(1)


def listen(
    state: Annotated[
        Path,
        typer.Option(
            "--state", help="Folder of the inbox and the record of what was done; one run at a time can use it."
        ),
    ],
    sentence: SentenceOption = None,
    findings: FindingsOption = None,
    aet: Annotated[str, typer.Option(help="Our application entity title.")] = "RADZERO",
    host: Annotated[str, typer.Option(help="Address to listen on; any but loopback needs --from.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 11112,
    caller: Annotated[
        list[str] | None, typer.Option("--from", help="Title of an application that may send; any may on loopback.")
    ] = None,
    store_url: Annotated[str | None, typer.Option(help="DICOMweb server that results are stored on.")] = None,
    send_to: Annotated[str | None, typer.Option(help="DICOM peer that results are sent to: AET@HOST:PORT.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder that results are written to.")] = None,
    results: ResultsOption = "seg,sr",
    threshold: ThresholdOption = 0.5,
    model: ModelOption = None,
    revision: RevisionOption = None,
    local_files_only: LocalOption = False,
    device: DeviceOption = None,
    precision: PrecisionOption = Precision.HIGHEST,
) -> None:
    """Receive films by C-STORE, ask them, and send the results on. Needs 'radzero[dicom]'. Ends on Ctrl-C or SIGTERM.

    A film is on disk before it is acknowledged; what was not finished is finished by the next run.
    """
    import os
    import signal

    with errors_in_words(RuntimeError):
        from radzero.pacs.dicomweb import Credentials, DicomWeb
        from radzero.pacs.listen import DimseDestination, Listener, Peer
        from radzero.pacs.process import FolderDestination
        from radzero.service.settings import is_loopback

        if sum(option is not None for option in (store_url, send_to, output)) != 1:
            raise ValueError("say where results go, by one of --store-url, --send-to and --output")
        if not is_loopback(host) and not caller:
            raise ValueError(f"{host} can be reached from other machines: name who may send, by --from TITLE")
        if store_url:
            target: Any = DicomWeb(store_url, Credentials.of_environment())
            _warn_unless_encrypted(target)
        else:
            target = DimseDestination(Peer.parse(send_to), aet) if send_to else FolderDestination(Path(str(output)))
        hub = {"revision": revision, "local_files_only": local_files_only}
        processor = _processor(sentence, findings, results, threshold, target, state, model, device, precision, **hub)

        def on_film(uid: str, problem: str | None) -> None:
            say(f"{uid}: {problem or 'done'}")
            for what, why in processor.problems(uid).items():
                if what in ("warning", "left out"):
                    console.print(f"[yellow]{what}[/] {escape(why)}", highlight=False, soft_wrap=True)

        try:
            listener = Listener(
                processor,
                state / "inbox",
                title=aet,
                host=host,
                port=port,
                callers=tuple(caller or ()),
                on_film=on_film,
            )
        except OSError as error:
            raise OSError(f"{host}:{port}: cannot be listened on ({error.strerror})") from error
        if store_url:
            target.stopping = lambda: listener.stopping

    def stop(*_: Any) -> None:
        if listener.stopping:  # stopped twice: the state on disk is whole, as after any kill
            os._exit(1)
        listener.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    say(f"{aet} listens on {host}:{listener.port}; results go to {target.name}")
    listener.run()
    processor.ledger.close()
    say(_tally(processor.tally))


def _processor(
    sentence: list[str] | None,
    findings: list[str] | None,
    results: str,
    threshold: float,
    target: Any,
    state: Path,
    model: str | None,
    device: str | None,
    precision: Precision,
    **hub: Any,
) -> Any:
    """Make the processor of images from a command's options."""
    import sqlite3
    import warnings

    import torch

    from radzero.findings import asked_sentences
    from radzero.pacs.ledger import Ledger, Task
    from radzero.pacs.process import Processor
    from radzero.prediction.model import load
    from radzero.results import result_kinds

    asked = asked_sentences(sentence, findings)
    warnings.filterwarnings("ignore", module=r"py(net)?dicom\b")  # these warnings quote what was sent
    task = Task(tuple(asked), tuple(result_kinds(results)), threshold)
    torch.set_float32_matmul_precision(precision.value)
    radzero = load(model, device=device, **hub)
    if radzero.notice:
        warn(radzero.notice)
    try:
        ledger = Ledger(state, task.identity(radzero, target.name))
    except sqlite3.Error as error:
        raise ValueError(f"{state}: cannot be used ({error}); another run may be at work in it") from error
    return Processor(radzero, task, target, ledger)


def _warn_unless_encrypted(server: Any) -> None:
    if not server.encrypted:
        warn(f"{server.name}: all that it is sent travels unencrypted, credentials included")


def _tally(tally: Any) -> str:
    parts = [f"{counted(tally.done, 'film')} with {counted(tally.stored, 'result')} stored"]
    if tally.earlier:
        parts.append(f"{tally.earlier} done earlier")
    if tally.refused:
        parts.append(f"{len(tally.refused)} refused")
    if tally.failed:
        parts.append(f"{len(tally.failed)} not fetched or stored, to be tried again")
    return ", ".join(parts)
