"""`make sbom`: what a user installs, the same bytes each time, and nothing of this machine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT


@pytest.mark.slow
def test_the_list_is_complete_reproducible_and_of_no_machine(tmp_path: Path) -> None:
    """Valid CycloneDX; runtime packages with what they need; no tool of development, no path, no registry."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    (tmp_path / "elsewhere").mkdir()
    for name, cwd in (("one.json", ROOT), ("two.json", tmp_path / "elsewhere")):
        command = [sys.executable, str(ROOT / ".ci" / "sbom.py"), str(tmp_path / name)]
        subprocess.run(command, cwd=cwd, check=True, capture_output=True)
    text = (tmp_path / "one.json").read_text()
    assert (tmp_path / "two.json").read_text() == text
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    document = json.loads(text)
    names = {entry["name"].lower() for entry in document["components"]}
    assert {"numpy", "onnxruntime", "torch", "model-signing", "cryptography", "pyarrow", "pandas"} <= names
    assert not names & {"pytest", "ruff", "mypy", "hypothesis", "cyclonedx-bom", "import-linter", "uv", "mnist-edge"}
    assert all(entry["version"] and entry["purl"].startswith("pkg:pypi/") for entry in document["components"])
    assert document["metadata"]["component"]["name"] == "mnist-edge"
    edges = {entry["ref"]: entry["dependsOn"] for entry in document["dependencies"]}
    assert any(
        ref.startswith("sigstore==") for ref in edges[next(ref for ref in edges if ref.startswith("model-signing=="))]
    )
    for word in (str(ROOT), sys.prefix, str(Path.home()), "file:", "pypi.org", "pythonhosted", "/simple"):
        assert word not in text, word
