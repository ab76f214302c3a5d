"""Write the model card of a bundle in Hugging Face's format: YAML front matter, then Markdown."""

from __future__ import annotations

import json
import re
import shlex

from jinja2 import Environment, PackageLoader, StrictUndefined

from mnist_edge.bundle.evidence import ReportContent
from mnist_edge.bundle.folder import Bundle
from mnist_edge.records.evidence import Verified
from mnist_edge.reporting.escape import printable
from mnist_edge.reporting.page.summary import (
    best_time,
    chosen_evaluation,
    chosen_variant,
    commands,
    equal_bytes,
    verdict,
)
from mnist_edge.reporting.tables.format import micro, percent

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
        "number": lambda value: Plain("-" if value is None else f"{value:,}"),
        "share": lambda value: Plain("-" if value is None else f"{value:.3%}"),
        "error": lambda value: Plain("-" if value is None else f"{value:.1e}" if value else "0"),
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
        chosen=chosen_variant(bundle),
        verdict=verdict(bundle, evidence),
        best_time=best_time(bundle, evidence),
        evaluated=chosen_evaluation(bundle, evidence),
        verified=_in_order(bundle, list(evidence.verified.values())),
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


def _in_order(bundle: Bundle, verified: list[Verified]) -> list[Verified]:
    names = [variant.name for variant in bundle.manifest.variants]
    return sorted(verified, key=lambda one: names.index(one.parity.name))
