"""Write a CycloneDX list of what a user can install, for `make sbom`.

cyclonedx-py lists the whole environment, and follows the extras of every package. Kept is what mnist-edge and its own extras
need; the tools of development are not.
"""

import importlib.metadata
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent


def main() -> None:
    """Write the file that the only argument names."""
    command = [BIN / "cyclonedx-py", "environment", "--of", "JSON", "--output-reproducible"]
    command += ["--pyproject", ROOT / "pyproject.toml", sys.executable]
    listed = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    document = json.dumps(of_the_package(listed), indent=2, sort_keys=True)
    output = Path(sys.argv[1])
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(document + "\n", encoding="utf-8")


def of_the_package(document: dict) -> dict:
    """Keep the components that the package needs, state which needs which, and drop the addresses of project pages."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    needs: dict[str, set[str]] = {}
    direct = {name for line in lines for name in _follow(Requirement(line), needs, set())}
    refs = {str(canonicalize_name(entry["name"])): entry["bom-ref"] for entry in document["components"]}
    root = document["metadata"]["component"]["bom-ref"]
    document["components"] = [entry for entry in document["components"] if canonicalize_name(entry["name"]) in needs]
    edges = {root: direct, **{refs[name]: found for name, found in needs.items()}}
    document["dependencies"] = [
        {"ref": ref, "dependsOn": sorted(refs[name] for name in found)} for ref, found in sorted(edges.items())
    ]
    return _without_addresses(document)


def _follow(requirement: Requirement, needs: dict[str, set[str]], seen: set[str]) -> Iterator[str]:
    """Yield the name of a requirement that is installed, and add what it needs to `needs`, by name."""
    name = str(canonicalize_name(requirement.name))
    try:
        lines = importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return
    yield name
    key = f"{name}[{','.join(sorted(requirement.extras))}]"
    if key in seen:
        return
    seen.add(key)
    found = needs.setdefault(name, set())
    for inner in map(Requirement, lines):
        if inner.marker is None or any(inner.marker.evaluate({"extra": extra}) for extra in ("", *requirement.extras)):
            found.update(_follow(inner, needs, seen))


def _without_addresses(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_addresses(item) for key, item in value.items() if key != "externalReferences"}
    return [_without_addresses(item) for item in value] if isinstance(value, list) else value


if __name__ == "__main__":
    main()
