"""The wheel of `make wheel`: what another machine gets."""

from __future__ import annotations

import configparser
import email
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built with the options of the Makefile."""
    folder = tmp_path_factory.mktemp("dist")
    uv = Path(sys.executable).parent / "uv"
    options = ["--quiet", "--wheel", "--no-build-isolation", "--python", sys.executable, "--out-dir", folder]
    assert all(str(option) in (ROOT / "Makefile").read_text() for option in options[:3])
    subprocess.run([uv, "build", *options, ROOT], check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    assert built.name == f"mnist_edge-{PROJECT['version']}-py3-none-any.whl"
    return zipfile.ZipFile(built)


def test_the_wheel_holds_every_file_of_the_package(wheel: zipfile.ZipFile) -> None:
    """A recipe or module left out would be missed on a device only."""
    package = ROOT / "toolkit"
    expected = {
        str(path.relative_to(package))
        for path in (package / "mnist_edge").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    held = {name for name in wheel.namelist() if name.startswith("mnist_edge/") and not name.endswith("/")}
    assert "mnist_edge/training/recipes.toml" in held
    assert held == expected


def test_the_wheel_declares_the_extras_and_the_command(wheel: zipfile.ZipFile) -> None:
    """`pip install "...whl[cpu]"` finds its requirements, and a new shell finds `mnist-edge`."""
    info = f"mnist_edge-{PROJECT['version']}.dist-info"
    metadata = email.message_from_bytes(wheel.read(f"{info}/METADATA"))
    assert set(metadata.get_all("Provides-Extra")) == set(PROJECT["optional-dependencies"])
    required = {tuple(part.strip() for part in line.split(";")) for line in metadata.get_all("Requires-Dist")}
    assert required == {(line,) for line in PROJECT["dependencies"]} | {
        (line, f"extra == '{extra}'") for extra, lines in PROJECT["optional-dependencies"].items() for line in lines
    }
    scripts = configparser.ConfigParser()
    scripts.read_string(wheel.read(f"{info}/entry_points.txt").decode())
    assert dict(scripts["console_scripts"]) == PROJECT["scripts"]
