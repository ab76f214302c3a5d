"""The extras: what they require, and the command that installs each where it is printed."""

from __future__ import annotations

import importlib.metadata
import shlex
import shutil
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import ROOT

from mnist_edge.extras import EXTRAS, ExtraName, extra_of_module, install_hint, pip, requirements

DECLARED = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def test_the_extras_are_those_that_the_package_declares() -> None:
    """Every extra can be named in a hint, and no hint names one that does not exist."""
    assert set(EXTRAS) == set(DECLARED)


@pytest.mark.parametrize("extra", EXTRAS)
def test_a_hint_names_the_packages_themselves(extra: ExtraName, monkeypatch: pytest.MonkeyPatch) -> None:
    """mnist-edge is on no package index: a hint that names it could not work."""
    lines = [f"{line} ; extra == '{name}'" for name, found in DECLARED.items() for line in found]
    monkeypatch.setattr(importlib.metadata, "requires", lambda _name: ["numpy>=2.1", *lines])
    assert requirements(extra) == tuple(DECLARED[extra])
    words = shlex.split(install_hint(extra))
    assert words == [*shlex.split(pip()), "install", *DECLARED[extra]]
    assert "mnist-edge[" not in install_hint(extra)


def test_markers_of_any_form_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Build backends write the marker with either quote and with further conditions."""
    lines = ['a>=1; extra == "cpu"', "b ; python_version < '4' and extra=='cpu'", "c ; extra == 'cpus'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda _name: lines)
    assert requirements("cpu") == ("a>=1", "b")


def test_without_metadata_the_source_folder_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run from its source folder without an installation, the package still names a way."""

    def requires(_name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError

    monkeypatch.setattr(importlib.metadata, "requires", requires)
    assert install_hint("cpu").endswith('install ".[cpu]" in the source folder of mnist-edge')


def test_pip_is_that_of_the_running_interpreter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Another pip on the PATH would install into another environment."""
    monkeypatch.setattr(shutil, "which", lambda _name: str(Path(sys.executable).parent / "pip"))
    assert pip() == "pip"
    monkeypatch.setattr(shutil, "which", lambda _name: "/usr/bin/other/pip")
    monkeypatch.chdir(tmp_path)  # the interpreter may lie below the folder that the tests are run from
    assert pip() == f"{shlex.quote(sys.executable)} -m pip"
    monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv" / "bin" / "python"))
    assert pip() == ".venv/bin/python -m pip"


def test_modules_name_their_extra() -> None:
    """An import that fails leads to the extra that brings the module; a module of ours leads nowhere."""
    assert [extra_of_module(name) for name in ("torch.nn", "onnx", "matplotlib.figure", "optuna", "json")] == [
        "train", "cpu", "plots", "sweep", None,
    ]  # fmt: skip
