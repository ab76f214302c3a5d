"""What `demo` prints once its page can be opened."""

from __future__ import annotations

from rich.text import Text

from mnist_edge.records.demo import DemoReport


def demo_text(report: DemoReport) -> Text:
    """Return the address, what answers there, and how it ends."""
    return Text(
        f"{report.url}\n\n{report.model}: {', '.join(report.variants)}.\n"
        "Only programs on this machine can reach it. Ctrl-C ends it."
    )
