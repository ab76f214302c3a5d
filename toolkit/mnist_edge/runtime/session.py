"""Open an onnxruntime session on exactly the provider asked for, or fail.

onnxruntime falls back in silence: CUDA on a machine without it becomes the CPU, a typo too. Here a
CUDA session is opened with the fallback switched off, and what was got is checked afterwards,
down to the provider of each node.
"""

from __future__ import annotations

import importlib.metadata
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from mnist_edge.contract import Optimization, ProviderName
from mnist_edge.errors import BadFileError, MnistEdgeError, UnavailableError
from mnist_edge.extras import install_hint, pip
from mnist_edge.files import explaining_os_errors
from mnist_edge.records.settings import DEFAULT_SETTINGS, SessionSettings

if TYPE_CHECKING:
    import onnxruntime

EXECUTION_PROVIDERS: dict[ProviderName, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
LEVELS: dict[Optimization, str] = {
    "none": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}
WHEELS: dict[ProviderName, str] = {"cpu": "onnxruntime", "cuda": "onnxruntime-gpu"}


class RefusedModelError(BadFileError):
    """The file is an ONNX model, but onnxruntime cannot build or run its graph."""


def import_onnxruntime() -> ModuleType:
    """Import onnxruntime with its telemetry off: no device id on disk, no upload, no thread beside a timing.

    Since 1.29 the official wheels for Linux report to Microsoft unless this variable is set before the
    import (onnxruntime pull request 27379). A user who sets it himself is left his choice.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime  # type: ignore[no-any-return]


def installed_wheels() -> dict[str, str]:
    """Return the versions of the onnxruntime wheels that are installed, by wheel name."""
    found = {}
    for wheel in WHEELS.values():
        try:
            found[wheel] = importlib.metadata.version(wheel)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def available_providers() -> list[str]:
    """The providers that the installed onnxruntime can use; none without onnxruntime."""
    return list(import_onnxruntime().get_available_providers()) if installed_wheels() else []


def require_provider(provider: ProviderName) -> None:
    """Raise UnavailableError, with the command that mends it, unless the provider can be had."""
    wheels = installed_wheels()
    if len(wheels) > 1:
        raise UnavailableError(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other",
            hint=f"{pip()} uninstall -y onnxruntime onnxruntime-gpu && {install_hint(provider)}",
        )
    if not wheels:
        raise UnavailableError("onnxruntime is not installed", hint=install_hint(provider))
    if EXECUTION_PROVIDERS[provider] not in import_onnxruntime().get_available_providers():
        wheel = next(iter(wheels))
        remedy = (
            f"{pip()} uninstall -y {wheel} && {install_hint(provider)}"
            if wheel != WHEELS[provider]
            else "mnist-edge doctor shows what is missing"
        )
        raise UnavailableError(f"the provider {provider} is not in the installed {wheel} {wheels[wheel]}", hint=remedy)


def refuse_hard_links(model: Path) -> None:
    """Refuse external data that have a second name, as onnxruntime itself refuses links and paths out of the folder.

    A hard link may be any file of the machine, and whoever writes to it changes the model. A file of
    external data is named in the model under the key `location`, in plain bytes: without that word there is
    none, and with it only a file whose name is in there can be meant.

    Raises:
        BadFileError: names the file.
        UnavailableError: the model or its folder cannot be read.
    """
    with explaining_os_errors(model):
        data = model.read_bytes()
        folders = [model.parent, model.resolve().parent] if b"location" in data else []
        seen = set()
        while folders:
            folder = folders.pop()
            if folder.resolve() in seen:
                continue
            seen.add(folder.resolve())
            for path in folder.iterdir():
                if os.fsencode(path.name) not in data:
                    continue
                if path.is_dir():
                    folders.append(path)
                elif path.is_file() and path.stat().st_nlink > 1 and not path.samefile(model):
                    raise BadFileError(
                        f"{model}: its external data {path} are a hard link, which another name can change",
                        hint="copy the file instead of linking it",
                    )


@dataclass(frozen=True)
class OpenSession:
    """A session with proof of where its nodes run: provider name to number of nodes (empty where not told)."""

    session: onnxruntime.InferenceSession
    placement: dict[str, int]


def open_session(
    model: Path | bytes,
    settings: SessionSettings = DEFAULT_SETTINGS,
    name: str = "",
    *,
    profile_prefix: Path | None = None,
) -> OpenSession:
    """Open a model on one provider, all nodes of it.

    Args:
        model: a file, or the bytes of one.
        settings: provider, threads and options.
        name: what to call the model in an error; the file's path by default.
        profile_prefix: makes onnxruntime profile itself, into a file whose path begins so.

    Raises:
        UnavailableError: the provider cannot be had, or would run only a part; no thread can be started.
        BadFileError: not an ONNX model, or one whose external data are a hard link.
        RefusedModelError: a model that onnxruntime cannot build.
    """
    provider = settings.provider
    require_provider(provider)
    onnxruntime = import_onnxruntime()
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    name = name or str(model if isinstance(model, Path) else "the model")
    if isinstance(model, Path) and not model.is_file():
        raise UnavailableError(f"{model} does not exist", hint="mnist-edge export makes a bundle; check the path")
    if isinstance(model, Path):
        refuse_hard_links(model)
    wanted = EXECUTION_PROVIDERS[provider]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = settings.threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, LEVELS[settings.optimization])
    if profile_prefix is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile_prefix)
    options.log_severity_level = 4  # errors come as exceptions; warnings have no reader here
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if provider != "cpu":
        onnxruntime.preload_dlls()
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        session = onnxruntime.InferenceSession(
            str(model) if isinstance(model, Path) else model,
            sess_options=options,
            providers=[(wanted, provider_options(settings))],
            enable_fallback=0,  # else it prints on standard output, and a run that fails on the GPU goes on on the CPU
        )
    except (state.InvalidProtobuf, state.NoSuchFile) as error:
        raise BadFileError(f"{name} is not an ONNX model", hint="export it again") from error
    except Exception as error:  # onnxruntime's own exceptions share no base class
        raise _refusal(name, provider, _first_line(error)) from error
    if session.get_providers()[0] != wanted:
        raise UnavailableError(
            f"{provider} was asked for, onnxruntime took {session.get_providers()[0]}", hint="mnist-edge doctor"
        )
    placement = dict(
        Counter(part.ep_name for part in session.get_provider_graph_assignment_info() for _ in part.get_nodes())
    )
    unexpected = set(placement) - {wanted}
    if unexpected:
        raise UnavailableError(
            f"{name}: some nodes run on {', '.join(sorted(unexpected))}, not on {provider}", hint="--provider cpu"
        )
    return OpenSession(session, placement)


def provider_options(settings: SessionSettings) -> dict[str, str]:
    """Return the options of the execution provider; onnxruntime's CUDA provider uses TF32 unless it is told not to."""
    if settings.provider == "cpu":
        return {}
    return {"use_tf32": str(int(settings.tf32)), "enable_cuda_graph": str(int(settings.cuda_graph))}


def _refusal(name: str, provider: ProviderName, reason: str) -> MnistEdgeError:
    """What it means that onnxruntime opens no session, for the reason it gives."""
    if "pthread_create failed" in reason:
        return UnavailableError(
            f"{name}: no further thread can be started", hint="--threads 1, or raise the limit: ulimit -u"
        )
    if provider != "cpu":
        return UnavailableError(
            f"{name} does not run on {provider} alone: {reason}", hint="mnist-edge doctor, or --provider cpu"
        )
    return RefusedModelError(f"onnxruntime cannot build {name}: {reason}", hint="export it again")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
