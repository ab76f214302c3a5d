"""Write the model card of a bundle in Hugging Face's format: YAML front matter, then Markdown."""

from __future__ import annotations

import json
import re
import shlex

from jinja2 import Environment, PackageLoader, StrictUndefined

from mnist_edge.bundle.evidence import ReportContent
from mnist_edge.reporting.escape import printable
from mnist_edge.reporting.page.summary import (
    best_time,
    chosen_evaluation,
    commands,
    equal_bytes,
    order,
    verdict,
)
from mnist_edge.reporting.tables.format import bounded_share, grouped, logit_error, micro, percent

HUB_DATASETS = {"mnist": "ylecun/mnist", "fashion-mnist": "zalando-datasets/fashion_mnist"}
"""Names on Hugging Face's hub; other datasets have none that is known here."""
SPECIAL = re.compile(r"([\\`*_{}\[\]<>#!|~&$])")
LONGEST_TEXT = 2000


def write_card(content: ReportContent) -> bytes:
    """Return the card; its results are those of current records only."""
    environment = Environment(  # noqa: S701 - Markdown: `escape_markdown` escapes HTML as well
        loader=PackageLoader("mnist_edge.reporting", "page"),
        undefined=StrictUndefined,
        finalize=lambda value: (
            escape_markdown(value) if isinstance(value, str) and not isinstance(value, Plain) else value
        ),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "percent": lambda value: Plain(percent(value)),
        "micro": lambda value: Plain(micro(value)),
        "number": lambda value: Plain(grouped(value)),
        "share": lambda value: Plain(bounded_share(value)),
        "error": lambda value: Plain(logit_error(value)),
        "code": code,
        # JSON is YAML: a value written so cannot be read otherwise.
        "json": lambda value: Plain(
            json.dumps(printable(value) if isinstance(value, str) else value, ensure_ascii=False)
        ),
    }
    bundle, evidence = content.bundle, content.evidence
    text = environment.get_template("card.md.j2").render(
        name=bundle.folder.resolve().name,
        hub_dataset=HUB_DATASETS.get(bundle.manifest.dataset),
        bundle=bundle,
        manifest=bundle.manifest,
        evidence=evidence,
        absent=content.absent,
        chosen=bundle.chosen(),
        verdict=verdict(bundle, evidence),
        best_time=best_time(bundle, evidence),
        evaluated=chosen_evaluation(bundle, evidence),
        verified=sorted(evidence.verified.values(), key=lambda one: order(bundle, one.parity.name)),
        equal_bytes=lambda one: equal_bytes(bundle, one),
        commands=commands(evidence),
    )
    return text.encode(errors="replace")


class Plain(str):
    """Text that is Markdown already."""

    __slots__ = ()


def escape_markdown(text: str) -> Plain:
    """Return text from a file so that Markdown shows it as it is, in one line, without control characters."""
    return Plain(SPECIAL.sub(r"\\\1", printable(text[:LONGEST_TEXT])))


def code(words: str | tuple[str, ...]) -> Plain:
    """Return a command, or a name, as code that nothing in it can end."""
    text = printable((words if isinstance(words, str) else shlex.join(words))[:LONGEST_TEXT])
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return Plain(f"{fence}{space}{text}{space}{fence}")
