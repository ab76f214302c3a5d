"""Open a bundle, and serve its page until a signal arrives."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from mnist_edge.bundle.folder import Bundle
from mnist_edge.demo.answers import Answers, open_answers
from mnist_edge.demo.page import page_assets
from mnist_edge.demo.server import DemoServer
from mnist_edge.interrupts import SignalArrived
from mnist_edge.records.demo import DemoReport

STOP_SECONDS = 2.0
"""Time that a running model has to return once a signal has arrived."""


@dataclass(frozen=True, kw_only=True)
class OpenDemo:
    """A page whose port is bound and whose models are open."""

    server: DemoServer
    answers: Answers
    report: DemoReport


def open_demo(
    bundle: Bundle,
    port: int,
    *,
    timeout: float,
    notify: Callable[[str], None],
    on_variant: Callable[[int, int], None],
) -> OpenDemo:
    """Bind a port of 127.0.0.1 and open every variant.

    Args:
        bundle: of digits.
        port: 0 takes a free one.
        timeout: seconds that one run of a model may take.
        notify: called with one line about an unexpected error of a request.
        on_variant: called with the number of variants that are open, and of all.

    Raises:
        UnavailableError: the port is in use; or as `open_answers`.
        UsageError, BadFileError, CheckFailedError: as `open_answers`.
    """
    server = DemoServer(port, notify)  # first: a port in use is reported before models are opened
    try:
        answers = open_answers(bundle, timeout, on_variant)
        names = tuple(reader.model.variant.name for reader in answers.readers)
        server.answer = lambda content: answers.answer(content).to_json()
        server.assets = page_assets(bundle.folder.resolve().name, names, server.token)
    except BaseException:
        server.server_close()
        raise
    return OpenDemo(
        server=server,
        answers=answers,
        report=DemoReport(url=server.url, model=bundle.folder, variants=names),
    )


def serve_until_stopped(demo: OpenDemo) -> int:
    """Answer requests until the server is shut down or a signal arrives; return the exit code."""
    try:
        demo.server.serve_forever()
    except SignalArrived as signal:
        code = 128 + signal.signal_number
        if not demo.answers.idle_within(STOP_SECONDS):
            os._exit(code)  # onnxruntime would abort the process if its thread returned while the interpreter ends
        return code
    return 0
