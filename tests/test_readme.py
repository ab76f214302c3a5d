"""Every command and every program of README.md and docs/*.md, in order, with settings that make them quick."""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import re
import shlex
import shutil
import subprocess
import time
import tomllib
from pathlib import Path

import pytest
from conftest import ROOT
from PIL import Image
from typer.main import get_command

from mnist_edge.benchmarking import comparable, plan, rounds, sampling
from mnist_edge.benchmarking.process import ProcessResult, Task
from mnist_edge.cli.app import app
from mnist_edge.data.digits import load_digits
from mnist_edge.data.idx import idx_bytes
from mnist_edge.data.layout import TEST_FILES
from mnist_edge.data.photo import PreparedPhoto, prepare_several
from mnist_edge.demo.server import DemoServer
from mnist_edge.errors import UnavailableError
from mnist_edge.records.benchmark import Scenario
from mnist_edge.tuning import search, timing
from mnist_edge.workflow.predict import open_reader

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WHEEL = f"dist/mnist_edge-{PROJECT['version']}-py3-none-any.whl"
TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
PROGRAMS = {"mnist-edge", ".venv/bin/mnist-edge"}


def blocks(page: Path) -> list[tuple[str, str]]:
    """The language and content of each fenced block."""
    return re.findall(r"^```(\w+)\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(content: str) -> list[list[str]]:
    """The words of each line that begins with a prompt, without the comment."""
    return [shlex.split(line, comments=True) for line in re.findall(r"^\$ (.*)$", content, re.MULTILINE)]


LINES = [
    (page.name, words)
    for page in PAGES
    for language, content in blocks(page)
    if language == "console"
    for words in commands(content)
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_a_page_can_be_typed(page: Path) -> None:
    """Each command and option exists; what is not a command of ours follows a rule."""
    for name, words in LINES:
        if name == page.name:
            check_words(words)


def check_words(words: list[str]) -> None:
    """Raise where a line names a command, option, target, wheel or extra that does not exist."""
    program, *rest = words
    if program in PROGRAMS:
        get_command(app).commands[rest[0]].make_context(rest[0], rest[1:])
    elif program == "torchrun":
        ours = rest[rest.index("mnist_edge") + 1 :]
        get_command(app).commands[ours[0]].make_context(ours[0], ours[1:])
    elif program == "make":
        assert set(rest) <= TARGETS, words
    elif program == "pip":
        command, wheel = rest
        path, extras = wheel.rstrip("]").split("[")
        assert (command, path) == ("install", WHEEL)
        assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])
    elif program == ".":
        assert rest == [".venv/bin/activate"]
    else:
        assert program in {"git", "cd", "scp", "openssl"}, f"no rule for {words}"


@pytest.mark.parametrize(
    "line",
    ["mnist-edge prove x", "mnist-edge verify --speed 3", "mnist-edge bench --threads", "make dinner",
     'pip install "mnist-edge[cpu]"', f'pip install "{WHEEL}[gpu]"', "rm -rf /", "torchrun -m -- mnist_edge train --x"],
)  # fmt: skip
def test_a_wrong_line_is_found(line: str) -> None:
    """The check above can fail: an unknown command, option, target, package, extra or program."""
    with pytest.raises(Exception):  # noqa: B017, PT011 - typer's, a missing key, or an assertion
        check_words(shlex.split(line))


def quick(words: list[str]) -> list[str]:
    """The same command on the digits in place of MNIST, with one epoch, one trial and short timings."""
    name = words[0]
    words = [re.sub(r"^(runs|exported)/mnist\b", r"\1/small", word) for word in words]
    if name in {"train", "run"} and "--resume" not in words:
        words += ["--epochs", "1"] + (["--dataset", "digits"] if "--dataset" not in words else [])
    if name == "sweep":
        words += ["--dataset", "digits", "--epochs", "1", "--trials", "1", "--batch-size", "128", "--seeds", "0"]
    if name == "tune":  # the 360 test images of the digits cannot show a smaller loss
        words += ["--max-accuracy-drop", "5"] + ([] if "--variant" in words else ["--variant", "fp32"])
    if name == "verify" and "exported/small" in words and "--target" not in words:
        words += ["--max-accuracy-drop", "5"]
    if name == "bench" and "offline" not in words:
        words += ["--duration", "0.02"]  # of an option given twice the last one counts
    if name == "demo":
        words += ["--port", "0"]
    if "--tolerance" in words:  # two short rounds on busy cores prove nothing
        words[words.index("--tolerance") + 1] = "100000"
    return words


def in_this_process(module: str, task: Task) -> ProcessResult:
    """Measure as the timing process does, without starting one; tests/test_bench.py starts real ones."""
    return importlib.import_module(module).measure(dataclasses.replace(task, started_ns=time.monotonic_ns()))


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_a_page_works(
    page: Path, workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user who has trained and exported runs/small can paste the commands and programs of a page in their order."""
    shutil.copytree(workplace / "runs" / "digits", tmp_path / "runs" / "small")
    shutil.copytree(workplace / "exported" / "digits", tmp_path / "exported" / "small")
    monkeypatch.chdir(tmp_path)
    if re.search("mnist-edge (predict|score)", page.read_text(encoding="utf-8")):
        write_photos(tmp_path)
    if "my-digits" in page.read_text(encoding="utf-8"):
        write_test_set(tmp_path / "my-digits")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "no-cache"))
    monkeypatch.delenv("MNIST_EDGE_DATA", raising=False)
    monkeypatch.setattr(plan, "ROUNDS", 2)
    monkeypatch.setattr(comparable, "MIN_PROCESSES", 2)
    monkeypatch.setattr(rounds, "run_process", in_this_process)
    monkeypatch.setattr(timing, "run_process", in_this_process)
    monkeypatch.setattr(timing, "SCENARIO", Scenario(seconds=0.01))
    monkeypatch.setattr(search, "ROUNDS", 2)
    monkeypatch.setattr(
        search, "single_changes", lambda *_: [{"io_binding": True}]
    )  # tests/test_tuning.py has the others
    monkeypatch.setattr(sampling, "WARMUP_LIMIT_NS", 50_000_000)
    monkeypatch.setattr(plan, "find_spec", lambda _name: None)  # PyTorch is timed in tests/test_bench.py
    monkeypatch.setattr(DemoServer, "serve_forever", lambda _server: None)  # tests/test_demo.py serves
    for language, content in blocks(page):
        if language == "python":
            exec(compile(content.replace("exported/mnist", "exported/small"), page.name, "exec"), {})
        for words in commands(content) if language == "console" else []:
            # tests/test_processes.py starts real ones; tests/test_remote.py has another machine
            if words[0] == "openssl":
                subprocess.run(words, check=True, capture_output=True)
            if words[0] in PROGRAMS and not {"--processes", "--on"} & set(words):
                run(quick(words[1:]))


def write_photos(folder: Path) -> None:
    """Write photo.jpg, scans/0.png to 2.png and sheet.png, with digits that the small bundle is sure of."""
    reader, images = open_reader(folder / "exported" / "small"), load_digits().test_images

    def accepted(prepared: list[PreparedPhoto]) -> bool:
        return len(prepared) == 1 and reader.predict("", prepared[0]).accepted

    sure = (
        image
        for image in images
        if accepted([PreparedPhoto(image=image, reason="")]) and accepted(prepare_several(image))
    )
    (folder / "scans").mkdir()
    for number, image in enumerate(itertools.islice(sure, 3)):
        Image.fromarray(image).save(folder / "scans" / f"{number}.png")
    for name in ("photo.jpg", "sheet.png"):
        shutil.copy(folder / "scans" / "0.png", folder / name)


def write_test_set(folder: Path) -> None:
    """Write a folder with a test set, other images than those that the small bundle was exported with."""
    digits = load_digits()
    folder.mkdir()
    for name, values in zip(TEST_FILES, (digits.train_images[:], digits.train_labels), strict=True):
        (folder / name).write_bytes(idx_bytes(values))


def run(words: list[str]) -> None:
    """Run a command in this process and expect success, or that CUDA or the tools of a target are missing here."""
    if words[0] == "train" and "--resume" not in words and "--run" in words:  # the user has none of that name yet
        shutil.rmtree(words[words.index("--run") + 1], ignore_errors=True)
    if "cuda" in words:
        with pytest.raises(UnavailableError, match=r"(?i)cuda"):
            app(words, standalone_mode=False)
        return
    # After one epoch a network is sure of nothing; then predict reports that, and 1.
    allowed = {None, 0, 1} if words[0] == "predict" and "exported/small" in words else {None, 0}
    try:
        assert app(words, standalone_mode=False) in allowed, words
    except UnavailableError:
        if "--target" not in words:  # compilers, emulators and browsers are not everywhere; their own tests skip
            raise


def test_the_table_of_the_proof_is_that_of_the_newest_results() -> None:
    """README shows what `make proof` measured last, not an older or a hand-written table."""
    from benchmarks.proof import with_table

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert with_table(readme) == readme
