"""The wheel of `make wheel`: what another machine gets."""

from __future__ import annotations

import configparser
import email
import re
import shutil
import subprocess
import sys
import tomllib
import urllib.request
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


@pytest.fixture(scope="module")
def torchless(wheel: zipfile.ZipFile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel and every extra but `train`, in the locked versions; the folder of its programs."""
    folder = tmp_path_factory.mktemp("torchless")
    uv = Path(sys.executable).parent / "uv"
    locked = re.findall(r"^[\w.-]+==[^\s\\]+(?: ; [^\\\n]+)?", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    (folder / "constraints.txt").write_text("\n".join(locked))
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    done = subprocess.run(
        [uv, "pip", "install", "--quiet", "--python", python, "--constraint", folder / "constraints.txt",
         f"{wheel.filename}[cpu,plots,sweep,score,sign]", "scikit-learn"],  # it holds the digits of the test
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        pytest.skip(f"the packages could not be downloaded: {done.stderr[-300:]}")
    assert subprocess.run([python, "-c", "import torch"], capture_output=True, check=False).returncode
    return python.parent


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_without_torch_everything_works_but_training(torchless: Path, bundle_folder: Path, tmp_path: Path) -> None:
    """What a device or a colleague needs is there without PyTorch; what is not says which extra brings it."""
    from PIL import Image

    from mnist_edge.data.digits import load_digits

    shutil.copytree(bundle_folder, tmp_path / "exported" / "digits")
    digits = load_digits()
    (tmp_path / "photos").mkdir()
    for index in range(3):
        Image.fromarray(255 - digits.test_images[index]).resize((140, 140)).save(tmp_path / "photos" / f"{index}.png")
    for name in ("key", "public"):
        options = ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", "key.pem"]
        options = options if name == "key" else ["pkey", "-in", "key.pem", "-pubout", "-out", "public.pem"]
        subprocess.run(["openssl", *options], cwd=tmp_path, check=True, capture_output=True)

    def ours(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [torchless / "mnist-edge", *words], cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False
        )

    for words in (
        ("verify",), ("eval", "exported/digits"), ("bench", "--duration", "0.05", "--rounds", "2"),
        ("inspect", "exported/digits"), ("predict", "photos/0.png"), ("report", "--output", "report.html"),
        ("sign", "exported/digits", "--key", "key.pem"), ("verify", "exported/digits", "--key", "public.pem"),
        ("score", "photos", "--output", "scores.parquet"), ("variants",), ("doctor",),
    ):  # fmt: skip
        done = ours(*words)
        assert done.returncode == 0, (words, done.stderr)
    with subprocess.Popen(
        [torchless / "mnist-edge", "demo", "--port", "0"], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as demo:
        try:
            assert demo.stdout is not None
            url = next(filter(None, (re.search(r"http://\S+", line) for line in demo.stdout)))[0]
            with urllib.request.urlopen(url, timeout=20) as page:
                assert b"<html" in page.read()
        finally:
            demo.terminate()
    for words in (("train", "--dataset", "digits"), ("export",), ("tune", "--variant", "all")):
        done = ours(*words)
        assert (done.returncode, "Traceback" in done.stderr) == (4, False), (words, done.stderr)
