"""Open an onnxruntime session on exactly the requested provider, or fail.

onnxruntime falls back silently: CUDA on a machine without it becomes the CPU, and so does a misspelt name. Here a CUDA
session is opened with the fallback switched off, and the provider of the session and of each node is checked afterwards.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from mnist_edge.contract import Optimization, ProviderName
from mnist_edge.errors import BadFileError, MnistEdgeError, UnavailableError
from mnist_edge.extras import install_hint, installed_versions, pip
from mnist_edge.records.settings import DEFAULT_SETTINGS, SessionSettings
from mnist_edge.runtime.cuda import captured_log, preload_libraries, unusable_cuda
from mnist_edge.runtime.model_file import check_model_file
from mnist_edge.runtime.reasons import EXPORT_AGAIN, explain

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
    """Import onnxruntime with its telemetry off: no device id on disk, no upload, no extra thread during a timing.

    Since 1.29 the official wheels for Linux report to Microsoft unless this variable is set before the
    import (onnxruntime pull request 27379). Where the user has set it, it is left as it is.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime  # type: ignore[no-any-return]


def installed_wheels() -> dict[str, str]:
    """Return the versions of the onnxruntime wheels that are installed, by wheel name."""
    return installed_versions(WHEELS.values())


def available_providers() -> list[str]:
    """Return the providers that the installed onnxruntime was built with; none without onnxruntime."""
    return list(import_onnxruntime().get_available_providers()) if installed_wheels() else []


def require_provider(provider: ProviderName) -> None:
    """Raise UnavailableError, with the command that fixes it, unless the installed wheel has the provider.

    Whether a GPU and its driver work is known only once a session is opened: see `require_working_cuda`.
    """
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


@dataclass(frozen=True)
class OpenSession:
    """A session, and the number of its nodes by provider (empty where onnxruntime does not report it)."""

    session: onnxruntime.InferenceSession
    placement: dict[str, int]


def open_session(
    model: Path | bytes,
    settings: SessionSettings = DEFAULT_SETTINGS,
    name: str = "",
    *,
    profile_prefix: Path | None = None,
    optimized: Path | None = None,
) -> OpenSession:
    """Open a model on one provider, all nodes of it.

    Args:
        model: a file, or the bytes of one.
        settings: provider, threads and options.
        name: what to call the model in an error; the file's path by default.
        profile_prefix: makes onnxruntime profile itself, into a file whose path begins so.
        optimized: where onnxruntime writes the graph that it made of the model.

    Raises:
        UnavailableError: the provider is not available or would run only some of the nodes; no thread can be started;
            not enough memory.
        BadFileError: not an ONNX model, or one that `check_model_file` refuses.
        RefusedModelError: a model that onnxruntime cannot build.
    """
    provider = settings.provider
    require_provider(provider)
    onnxruntime = import_onnxruntime()
    name = name or str(model if isinstance(model, Path) else "the model")
    if isinstance(model, Path):
        check_model_file(model)
    wanted = EXECUTION_PROVIDERS[provider]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = settings.threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, LEVELS[settings.optimization])
    for key, value in session_entries(settings).items():
        options.add_session_config_entry(key, value)
    if profile_prefix is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile_prefix)
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    options.log_severity_level = 4  # errors come as exceptions; warnings have no reader here
    if provider != "cpu":
        preload_libraries(onnxruntime)
    quiet = contextlib.nullcontext(str) if provider == "cpu" else captured_log()
    with quiet as log:
        try:
            session = onnxruntime.InferenceSession(
                str(model) if isinstance(model, Path) else model,
                sess_options=options,
                providers=[(wanted, provider_options(settings))],
                enable_fallback=0,  # else it prints on standard output, and a failed run on the GPU continues on the CPU
            )
        except Exception as error:  # onnxruntime's own exceptions share no base class
            raise (unusable_cuda(log()) or refusal(name, provider, error, "build")) from error
    if session.get_providers()[0] != wanted:
        raise UnavailableError(
            f"{provider} was requested, onnxruntime took {session.get_providers()[0]}", hint="mnist-edge doctor"
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


def session_entries(settings: SessionSettings) -> dict[str, str]:
    """Return onnxruntime's session configuration; a key that it does not know would be ignored in silence."""
    entries = {
        "session.record_ep_graph_assignment_info": "1",
        "session.intra_op.allow_spinning": str(int(settings.spinning)),
        "session.disable_prepacking": str(int(not settings.prepacking)),
    }
    return entries if settings.provider == "cpu" else {**entries, "session.disable_cpu_ep_fallback": "1"}


def provider_options(settings: SessionSettings) -> dict[str, str]:
    """Return the options of the execution provider; by itself onnxruntime's CUDA provider uses TF32."""
    if settings.provider == "cpu":
        return {}
    return {"use_tf32": str(int(settings.tf32)), "enable_cuda_graph": str(int(settings.cuda_graph))}


def refusal(name: str, provider: ProviderName, error: Exception, verb: str, batch: int | None = None) -> MnistEdgeError:
    """Return the error for a model that onnxruntime cannot build or run.

    Args:
        name: of the model.
        error: what onnxruntime raised.
        verb: build or run.
        batch: of the run that failed.
    """
    reason = explain(error)
    if reason.cause == "threads":
        return UnavailableError(f"{name}: {reason.text}", hint=reason.hint)
    if reason.cause == "memory":
        where = "" if batch is None else f" at batch {batch}"
        device = "of the GPU " if provider == "cuda" else ""
        return UnavailableError(
            f"{name}: not enough memory {device}to {verb} it{where}: {reason.text}", hint=reason.hint
        )
    generic = reason.hint == EXPORT_AGAIN
    if provider != "cpu" and generic and (verb == "build" or reason.cause == "cuda"):
        return UnavailableError(
            f"{name} does not run on {provider} alone: {reason.text}", hint="mnist-edge doctor, or --provider cpu"
        )
    return RefusedModelError(f"onnxruntime cannot {verb} {name}: {reason.text}", hint=reason.hint)
