"""The targets `web` and `onnxruntime-web` through the commands: what is built, refused, and compared in a real browser."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from mnist_edge.bundle.folder import load_bundle
from mnist_edge.contract import LABELS
from mnist_edge.errors import UsageError
from mnist_edge.targets.web.target import WEB
from tests.conftest import mnist_edge
from tests.test_onnxruntime_web import needs_runtime
from tests.test_web_page import needs_browser, needs_compiler, with_renewed_policy


@needs_compiler
def test_a_page_is_one_small_file_and_always_the_same(bundle_folder: Path, tmp_path: Path) -> None:
    # Protects size and reproducibility; the constants of the network are 4 bytes each in the module.
    bundle = load_bundle(bundle_folder)
    variant = bundle.variant("fp32")
    weights = 4 * (784 * 48 + 48 + 48 * 32 + 32 + 32 * 10 + 10)
    pages = []
    for name in ("one.html", "other.html"):
        facts = WEB.build(bundle, variant, tmp_path / name)
        assert weights < facts["wasm_bytes"] < weights + 5_000
        pages.append((tmp_path / name).read_bytes())
    assert pages[0] == pages[1]
    assert len(pages[0]) < facts["wasm_bytes"] * 4 / 3 + 40_000


def test_clothes_are_not_drawn(bundle_folder: Path, tmp_path: Path) -> None:
    # Protects against a page that says "Draw a digit" and answers "Pullover".
    bundle = load_bundle(bundle_folder)
    manifest = dataclasses.replace(bundle.manifest, dataset="fashion-mnist", labels=LABELS["fashion-mnist"])
    with pytest.raises(UsageError, match="classifies fashion-mnist; the page is for digits"):
        WEB.build(dataclasses.replace(bundle, manifest=manifest), bundle.variant("fp32"), tmp_path / "page.html")


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("page", "expected a name that ends in .html"),
        ("bundle/page.html", "bundle is a bundle, which holds only files"),
    ],
)
def test_a_page_goes_where_it_does_no_harm(bundle_folder: Path, tmp_path: Path, output: str, message: str) -> None:
    # Protects the bundle, which would be refused with another file in it, and from files that browsers do not open.
    shutil.copytree(bundle_folder, tmp_path / "bundle")
    done = mnist_edge("export", "--target", "web", "--bundle", "bundle", "--output", output, cwd=tmp_path)
    assert (done.code, done.err.count("\n")) == (2, 1), done.err
    assert message in done.err
    assert not (tmp_path / output).exists()


def test_a_page_that_is_not_there_is_named(bundle_folder: Path, tmp_path: Path) -> None:
    # Protects the user from a browser's error page.
    command = ("verify", bundle_folder, "--target", "web", "--variant", "fp32", "--built", "none.html")
    done = mnist_edge(*command, cwd=tmp_path)
    assert (done.code, "none.html is no file" in done.err) == (4, True), done.err


@pytest.mark.slow
@needs_compiler
@needs_browser
def test_verify_compares_the_page_with_pytorch(bundle_folder: Path, tmp_path: Path) -> None:
    # Protects the one path that proves a page; and a page that was changed on purpose, hash and all, fails.
    done = mnist_edge(
        "export", "--target", "web", "--bundle", bundle_folder, "--output", "page.html", "--json", cwd=tmp_path
    )
    assert done.code == 0, done.err
    assert done.json["self_test"]["images"] == 16
    command = ("verify", bundle_folder, "--target", "web", "--variant", "fp32", "--built", "page.html", "--json")
    done = mnist_edge(*command, cwd=tmp_path)
    (found,) = done.json["variants"]
    assert (done.code, found["passed"], found["images"], found["flips"]) == (0, True, 360, 0)
    # The page's own verdict must not decide: here it accepts any error, and its model sees another image.
    page = with_renewed_policy((tmp_path / "page.html").read_bytes(), b'"tolerance": 0.0001', b'"tolerance": 1e9999')
    page = with_renewed_policy(page, b"predict(), 10)", b"(input[406] ^= 64, predict()), 10)")
    page = with_renewed_policy(page, b"indexOfLargest(rows[0])", b"indexOfLargest(rows[1])")
    (tmp_path / "page.html").write_bytes(page)
    done = mnist_edge(*command, cwd=tmp_path)
    assert done.code == 1, done.out
    assert "logits differ" in done.json["variants"][0]["reason"]


@pytest.mark.slow
@needs_compiler
@needs_runtime
def test_ten_thousand_images_of_mnist_in_the_browser(mnist_folder: Path, tmp_path: Path) -> None:
    # Protects the claim itself, with the network of full size: no flip, and errors of float32 rounding only.
    data = {"MNIST_EDGE_DATA": str(mnist_folder)}
    for command in (
        ("train", "--dataset", "mnist", "--epochs", "1", "--run", "run"),
        ("export", "--run", "run", "--output", "bundle"),
    ):
        done = mnist_edge(*command, cwd=tmp_path, **data)
        assert done.code == 0, done.err
    for target in ("web", "onnxruntime-web"):
        done = mnist_edge("verify", "bundle", "--target", target, "--json", cwd=tmp_path, **data)
        assert done.code == 0, done.err
        (found,) = done.json["variants"]
        assert (found["images"], found["flips"]) == (10_000, 0)
        assert found["max_abs_error"] <= 1e-5
