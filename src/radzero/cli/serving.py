"""Define the verbs that serve: ``view``, ``serve``."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from radzero.cli.console import (
    DeviceOption,
    LocalOption,
    ModelOption,
    Precision,
    PrecisionOption,
    RevisionOption,
    counted,
    errors_in_words,
    left_out,
    say,
    say_unsearched,
)

UploadOption = Annotated[int, typer.Option(min=1, help="Most MiB of a request.")]


def view(
    inputs: Annotated[list[str] | None, typer.Argument(help="Films, folders or glob patterns to offer.")] = None,
    model: ModelOption = None,
    revision: RevisionOption = None,
    local_files_only: LocalOption = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 0,
    browser: Annotated[bool, typer.Option(help="Whether to open the page.")] = True,
    device: DeviceOption = None,
    max_upload_mib: UploadOption = 256,
    precision: PrecisionOption = Precision.HIGHEST,
) -> None:
    """Open a local page that shows films and asks them sentences. Needs 'radzero[serve]'.

    Only this machine reaches it, and on it only who has the link that is printed.
    """
    import secrets
    from contextlib import nullcontext

    from radzero.prediction.inputs import find_inputs

    with errors_in_words(RuntimeError):
        found = find_inputs(inputs or [])
        token = secrets.token_urlsafe(24)
        settings, serve = _service(port=port, tokens=frozenset((token,)), max_upload_bytes=max_upload_mib * 2**20)
        hub = {"revision": revision, "local_files_only": local_files_only}
        listener, run = serve(model, device, precision, [item.paths[0] for item in found.items], **hub)
    from radzero.viewer.opening import opened_in_browser

    link = f"http://{settings.host}:{listener.getsockname()[1]}/?token={token}"
    offered = ", ".join([f"{counted(len(found.items), 'film')} offered", *left_out(found)])
    say(f"{offered}. The page: {link}")
    say_unsearched(found)
    say("Ctrl-C ends it.")
    with opened_in_browser(link) if browser else nullcontext():
        run()


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on; any but loopback needs --token-file.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8000,
    model: ModelOption = None,
    revision: RevisionOption = None,
    local_files_only: LocalOption = False,
    token_file: Annotated[Path | None, typer.Option(help="File with bearer tokens, one per line.")] = None,
    viewer: Annotated[bool, typer.Option(help="Whether to serve the viewer's page too.")] = False,
    device: DeviceOption = None,
    max_batch: Annotated[int, typer.Option(min=1, help="Most films in one pass.")] = 16,
    max_pending: Annotated[int, typer.Option(min=1, help="Requests that may wait; more are answered 429.")] = 128,
    time_limit: Annotated[float, typer.Option(min=0.1, help="Seconds that a request may take.")] = 60.0,
    cache_mib: Annotated[int, typer.Option(min=1, help="Memory in MiB for films that are kept.")] = 1024,
    max_upload_mib: UploadOption = 256,
    max_pixels: Annotated[int | None, typer.Option(min=1, help="Most pixels of a film.")] = None,
    precision: PrecisionOption = Precision.HIGHEST,
) -> None:
    """Answer over HTTP (docs/service.md). Needs 'radzero[serve]'. Ends on SIGTERM, after what it has accepted."""
    with errors_in_words(RuntimeError):
        from radzero.service.settings import read_tokens

        _, start = _service(
            host=host,
            port=port,
            tokens=read_tokens(token_file) if token_file else frozenset(),
            max_batch=max_batch,
            max_pending=max_pending,
            time_limit_s=time_limit,
            cache_bytes=cache_mib * 2**20,
            max_upload_bytes=max_upload_mib * 2**20,
            **({"max_pixels": max_pixels} if max_pixels else {}),
        )
        hub = {"revision": revision, "local_files_only": local_files_only}
        _, run = start(model, device, precision, [] if viewer else None, **hub)
    run()


def _service(**options: Any) -> tuple[Any, Callable[..., Any]]:
    """Return the settings, and the function that opens a socket and returns the function that serves on it."""
    try:
        from radzero.service.allocator import keep_memory_between_passes
        from radzero.service.app import create_app
        from radzero.service.server import open_socket, run_server
        from radzero.service.settings import ServiceSettings
        from radzero.viewer import add_viewer
    except ImportError as error:
        raise ImportError(
            f"the service needs more than is installed ({error}): pip install 'radzero[serve]'"
        ) from error
    settings = ServiceSettings(**options)

    def start(
        model: str | None, device: str | None, precision: Precision, library: list[Path] | None, **hub: Any
    ) -> Any:
        import torch

        from radzero.prediction.model import load

        torch.set_float32_matmul_precision(precision.value)
        keep_memory_between_passes()
        listener = open_socket(settings)
        try:
            application = create_app(load(model, device=device, **hub), settings)
        except BaseException:
            listener.close()
            raise
        if library is not None:
            add_viewer(application, application.state.service, library)
        return listener, lambda: run_server(application, listener, settings)

    return settings, start
