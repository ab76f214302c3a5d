"""`mnist-edge demo`: a page on this machine to draw, paste, upload or photograph a digit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Annotated

import typer

from mnist_edge.cli.options import Json, Timeout

PORT = 8000


def demo(
    bundle: Annotated[Path | None, typer.Argument(help="Bundle folder. Default: the newest in exported/.")] = None,
    *,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of 127.0.0.1 to listen on; 0 takes a free one.")
    ] = PORT,
    browser: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in your browser.")] = False,
    timeout: Timeout = 10.0,
    json: Json = False,
) -> None:
    """Serve a page that shows what every variant of a bundle predicts for a digit that you draw or photograph."""
    from mnist_edge.bundle.folder import load_bundle
    from mnist_edge.demo.run import open_demo, serve_until_stopped
    from mnist_edge.reporting.console import emit, progress, say
    from mnist_edge.reporting.tables.demo import demo_text
    from mnist_edge.workflow.folders import newest_bundle

    folder = bundle or newest_bundle(say)
    with progress(f"opening {folder}") as on_variant:
        running = open_demo(load_bundle(folder), port, timeout=timeout, notify=say, on_variant=on_variant)
    with running.server:
        emit(running.report, json, demo_text)
        if browser:
            _open_browser(running.report.url, say)
        code = serve_until_stopped(running)
    raise typer.Exit(code)


def _open_browser(url: str, notify: Callable[[str], None]) -> None:
    """Open a page in the user's browser, from a thread: a browser in the terminal returns only when it is left."""
    import webbrowser

    def open_page() -> None:
        if not webbrowser.open(url):
            notify(f"no browser was found: open {url}")

    Thread(target=open_page, daemon=True).start()
