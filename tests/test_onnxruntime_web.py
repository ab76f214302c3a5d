"""Variants of a bundle under onnxruntime-web in a real browser."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from mnist_edge.bundle.folder import load_bundle
from mnist_edge.errors import UnavailableError
from mnist_edge.runtime.session import RefusedModelError
from mnist_edge.targets.web.chromium import DEVICE, NAMES
from mnist_edge.targets.web.onnxruntime_web import PACKAGE, RUNTIME, find_package, open_onnxruntime_web
from mnist_edge.targets.web.target import ONNXRUNTIME_WEB

KEPT = {"package.json", "dist", *RUNTIME}


def installed() -> bool:
    try:
        find_package()
    except UnavailableError:
        return False
    return True


needs_runtime = pytest.mark.skipif(
    not any(map(shutil.which, NAMES)) or not installed(),
    reason="needs Chromium (apt-get install chromium) and onnxruntime-web (npm install onnxruntime-web, or $NODE_PATH)",
)


def test_a_missing_package_is_named_with_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Protects the way out; and a folder of that name without the runtime is not taken for it.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NODE_PATH", str(tmp_path / "elsewhere"))
    (tmp_path / "node_modules" / PACKAGE).mkdir(parents=True)
    with pytest.raises(UnavailableError, match="onnxruntime-web is not installed") as found:
        find_package()
    assert "npm install onnxruntime-web@1.30.0" in found.value.hint


def test_the_package_is_found_as_node_finds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Protects users who work in a folder below their node_modules, or keep it elsewhere.
    dist = tmp_path / "node_modules" / PACKAGE / "dist"
    dist.mkdir(parents=True)
    for name in RUNTIME:
        (dist / name).touch()
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.delenv("NODE_PATH", raising=False)
    monkeypatch.chdir(tmp_path / "a" / "b")
    assert find_package() == dist.parent
    monkeypatch.chdir("/")
    monkeypatch.setenv("NODE_PATH", str(tmp_path / "node_modules"))
    assert find_package() == dist.parent


@pytest.mark.slow
@needs_runtime
def test_a_bundle_gives_the_same_logits_in_the_browser(two_variant_bundle: Path, tmp_path: Path) -> None:
    # Protects the claim that the exported file itself runs in a browser, under a policy without unsafe-eval.
    bundle = load_bundle(two_variant_bundle)
    for variant in bundle.manifest.variants:
        ONNXRUNTIME_WEB.build(bundle, variant, tmp_path / variant.name)
        with open_onnxruntime_web(tmp_path / variant.name, DEVICE, 60.0) as predictor:
            expected = predictor.classifier.logits(bundle.golden.images)
            for batch in (7, None):
                found = predictor.logits(bundle.golden.images, batch)
                assert np.abs(found - expected).max() <= 1e-5 * max(1, np.abs(expected).max())
            noisy = [
                event
                for name, event in predictor.browser.events
                if name in ("Runtime.exceptionThrown", "Log.entryAdded")
            ]
            assert noisy == [], json.dumps(noisy)


@pytest.mark.slow
@needs_runtime
def test_a_runtime_that_does_not_start_fails(
    bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Protects against a pass without a run: whatever the browser refuses must end in a failed check.
    package = shutil.copytree(find_package(), tmp_path / PACKAGE, ignore=lambda _, names: set(names) - KEPT)
    (package / "dist" / RUNTIME[1]).write_bytes(b"no module")
    monkeypatch.chdir("/")
    monkeypatch.setenv("NODE_PATH", str(tmp_path))
    with (
        pytest.raises(RefusedModelError, match="the page failed"),
        open_onnxruntime_web(bundle_folder, DEVICE, 60.0),
    ):
        pass
