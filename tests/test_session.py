"""The provider asked for, all nodes of it, or an error: never another one in silence."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, get_args

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from mnist_edge.contract import Optimization, ProviderName
from mnist_edge.errors import MnistEdgeError, UnavailableError
from mnist_edge.extras import install_hint, pip
from mnist_edge.records.settings import SessionSettings
from mnist_edge.runtime.cuda import _one_node_model, require_working_cuda
from mnist_edge.runtime.session import RefusedModelError, open_session, refusal, require_provider

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


def three_nodes() -> bytes:
    """A graph that no optimiser makes smaller."""
    nodes = [
        helper.make_node("Cast", ["x"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Softmax", ["float"], ["soft"], axis=1),
        helper.make_node("CumSum", ["soft", "axis"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "three",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, ["b", 784])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", 784])],
        [helper.make_tensor("axis", TensorProto.INT64, [], [1])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()


def wheels(monkeypatch: pytest.MonkeyPatch, *installed: str) -> None:
    """Let exactly these onnxruntime wheels be installed."""
    real = importlib.metadata.version

    def version(name: str) -> str:
        if not name.startswith("onnxruntime"):
            return real(name)
        if name in installed:
            return "1.99"
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)


def test_cuda_on_the_cpu_wheel_is_refused_with_the_remedy(bundle_folder: Path) -> None:
    """onnxruntime itself would run on the CPU here; the hint is a command that can be pasted."""
    if CUDA in onnxruntime.get_available_providers():
        pytest.skip("this machine has CUDA")
    with pytest.raises(UnavailableError, match="cuda") as caught:
        open_session(bundle_folder / "model.onnx", SessionSettings(provider="cuda"))
    assert caught.value.hint == f"{pip()} uninstall -y onnxruntime && {install_hint('cuda')}"
    silent = onnxruntime.InferenceSession(three_nodes(), providers=[CPU])
    assert silent.get_providers() == [CPU]


@pytest.mark.parametrize("provider", ["cpu", "cuda"])
def test_both_wheels_overwrite_each_other(provider: ProviderName, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which one was installed last cannot be known; the command mends it."""
    wheels(monkeypatch, "onnxruntime", "onnxruntime-gpu")
    with pytest.raises(UnavailableError, match="both installed") as caught:
        require_provider(provider)
    assert f"{pip()} uninstall -y onnxruntime onnxruntime-gpu" in caught.value.hint
    assert install_hint(provider) in caught.value.hint


@pytest.mark.parametrize("provider", ["cpu", "cuda"])
def test_no_wheel_names_the_extra(provider: ProviderName, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bare install says which extra brings the runtime."""
    wheels(monkeypatch)
    with pytest.raises(UnavailableError, match="not installed") as caught:
        require_provider(provider)
    assert caught.value.hint == install_hint(provider)


class Made(list[dict[str, Any]]):
    """What a stand-in for onnxruntime was asked to open."""


def stand_in(
    monkeypatch: pytest.MonkeyPatch, got: list[str], nodes: dict[str, int], refusal: Exception | None = None
) -> Made:
    """An onnxruntime-gpu that offers CUDA and then takes what it likes."""
    made = Made()

    class Options:
        def __init__(self) -> None:
            self.entries: dict[str, str] = {}

        def add_session_config_entry(self, key: str, value: str) -> None:
            self.entries[key] = value

    class Session:
        def __init__(self, _model: object, sess_options: Options, providers: list[Any], enable_fallback: int) -> None:
            if refusal is not None:
                raise refusal
            made.append(
                {
                    "providers": providers,
                    "entries": sess_options.entries,
                    "options": sess_options,
                    "fallback": enable_fallback,
                }
            )

        def get_providers(self) -> list[str]:
            return got

        def get_provider_graph_assignment_info(self) -> list[SimpleNamespace]:
            return [
                SimpleNamespace(ep_name=name, get_nodes=lambda count=count: [object()] * count)
                for name, count in nodes.items()
            ]

        def __getattr__(self, name: str) -> Any:  # what else a session can do is of no matter here
            return lambda *_, **__: None

    fake = ModuleType("onnxruntime")
    fake.SessionOptions = Options  # type: ignore[attr-defined]
    fake.InferenceSession = Session  # type: ignore[attr-defined]
    fake.capi = onnxruntime.capi  # type: ignore[attr-defined]
    fake.GraphOptimizationLevel = onnxruntime.GraphOptimizationLevel  # type: ignore[attr-defined]
    fake.get_available_providers = lambda: [CUDA, CPU]  # type: ignore[attr-defined]
    fake.preload_dlls = lambda *_, **__: None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    wheels(monkeypatch, "onnxruntime-gpu")
    return made


def test_cuda_alone_is_asked_for_with_the_fallback_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the tests below: a session that is wholly on CUDA opens, and was asked for as such."""
    made = stand_in(monkeypatch, [CUDA, CPU], {CUDA: 5})
    assert open_session(b"model", SessionSettings(provider="cuda")).placement == {CUDA: 5}
    assert made[-1]["providers"] == [(CUDA, {"use_tf32": "0", "enable_cuda_graph": "0"})]
    assert made[-1]["entries"]["session.disable_cpu_ep_fallback"] == "1"
    assert made[-1]["fallback"] == 0


def test_a_session_on_another_provider_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was got is looked at, not only what was asked for."""
    stand_in(monkeypatch, [CPU], {CPU: 5})
    with pytest.raises(UnavailableError, match=f"onnxruntime took {CPU}"):
        open_session(b"model", SessionSettings(provider="cuda"))


def test_one_node_on_another_provider_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CUDA figure with a part on the CPU is no CUDA figure."""
    stand_in(monkeypatch, [CUDA, CPU], {CUDA: 5, CPU: 1})
    with pytest.raises(UnavailableError, match=f"some nodes run on {CPU}"):
        open_session(b"model", SessionSettings(provider="cuda"))


def test_a_cuda_session_that_cannot_be_made_is_4(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing library is the machine's fault, not the file's."""
    stand_in(monkeypatch, [], {}, RuntimeError("libcudnn.so.9 is missing\nmore"))
    with pytest.raises(UnavailableError, match=r"libcudnn\.so\.9 is missing$") as caught:
        open_session(b"model", SessionSettings(provider="cuda"))
    assert caught.value.hint


def test_a_thread_that_cannot_be_started_is_4_and_tried_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is no fault of the model; onnxruntime's own second try would print into the JSON, and move to the CPU."""
    tries: list[object] = []

    def fail(_self: object, providers: object, *_: object) -> None:
        tries.append(providers)
        raise RuntimeError("env.cc:327 PosixThread pthread_create failed, error code: 11")

    monkeypatch.setattr(onnxruntime.InferenceSession, "_create_inference_session", fail)
    with pytest.raises(UnavailableError, match="no further thread can be started"):
        open_session(three_nodes(), SessionSettings(threads=2))
    assert (len(tries), capsys.readouterr().out) == (1, "")


def test_placement_counts_the_nodes_of_a_real_model(bundle_folder: Path) -> None:
    """The proof is not empty: every node of the graph is counted on the provider."""
    assert open_session(three_nodes()).placement == {CPU: 3}
    placement = open_session(bundle_folder / "model.onnx").placement
    assert set(placement) == {CPU}
    assert placement[CPU] >= 3  # three layers, however much is fused into each


def test_the_libraries_of_cuda_are_loaded_first_and_quietly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without it onnxruntime-gpu finds no CUDA; what it prints about missing libraries would break `--json`."""
    made = stand_in(monkeypatch, [CUDA, CPU], {CUDA: 5})
    loaded: list[int] = []

    def preload() -> None:
        loaded.append(len(made))
        print("Failed to load libcurand.so.10")

    monkeypatch.setattr(sys.modules["onnxruntime"], "preload_dlls", preload)
    open_session(b"model", SessionSettings(provider="cuda"))
    assert (loaded, len(made)) == ([0], 1)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("log", "expected", "hint"),
    [
        (
            "[E:onnxruntime:Default] Failed to load library /x/cuda.so with error: libcublasLt.so.13: cannot open",
            "libcublasLt.so.13",
            "onnxruntime-gpu",
        ),
        ("Failed to load library /x/cuda.so with error: libcuda.so.1: cannot open", "libcuda.so.1", "NVIDIA driver"),
        ("Failed to create CUDAExecutionProvider. Require cuDNN", "cannot create its CUDA provider", "nvidia-smi"),
        ("CUDA failure 35: CUDA driver version is insufficient ; GPU=0", "CUDA failure 35", "nvidia-smi"),
    ],
    ids=["library", "no driver", "provider", "old driver"],
)
def test_the_log_of_onnxruntime_names_what_cuda_lacks(
    log: str, expected: str, hint: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The exception does not; the log itself stays off the terminal."""
    stand_in(monkeypatch, [], {})

    def fail(*_: object, **__: object) -> None:
        os.write(2, log.encode())
        raise RuntimeError("This session contains graph nodes that are assigned to the default CPU EP")

    monkeypatch.setattr(sys.modules["onnxruntime"], "InferenceSession", fail)
    with pytest.raises(UnavailableError, match=expected) as caught:
        open_session(b"model", SessionSettings(provider="cuda"))
    assert hint in caught.value.hint
    assert capfd.readouterr().err == ""


def test_the_probe_of_cuda_is_a_model_that_runs() -> None:
    """It is written out byte by byte, since the package onnx may be missing; here on the CPU."""
    model = _one_node_model()
    onnx.checker.check_model(onnx.load_from_string(model), full_check=True)
    (found,) = open_session(model).session.run(None, {"x": np.array([-1.5], np.float32)})
    assert found.tolist() == [0.0]


@pytest.mark.parametrize("reason", ["CUDA failure 35: driver too old", "CUBLAS_STATUS_ALLOC_FAILED"])
def test_cuda_that_opens_no_session_is_reported(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wheel lists the provider on any machine."""
    stand_in(monkeypatch, [], {}, RuntimeError(reason))
    with pytest.raises(UnavailableError):
        require_working_cuda()


@pytest.mark.parametrize(
    ("provider", "reason", "kind", "expected"),
    [
        (
            "cuda",
            "CUDA failure 700: an illegal memory access was encountered",
            UnavailableError,
            "does not run on cuda",
        ),
        (
            "cuda",
            "CUDA failure 2: out of memory ; GPU=0",
            UnavailableError,
            "not enough memory of the GPU to run it at batch 64",
        ),
        ("cuda", "Got invalid dimensions for input: x", RefusedModelError, "cannot run"),
        ("cpu", "std::bad_alloc", UnavailableError, "not enough memory to run it at batch 64"),
        (
            "cpu",
            "Failed to allocate memory for requested buffer of size 4000000000",
            UnavailableError,
            "4.0 GB at once",
        ),
        ("cpu", "Got invalid dimensions for input: x", RefusedModelError, "cannot run"),
    ],
)
def test_a_failed_run_is_of_the_machine_or_of_the_model(
    provider: ProviderName, reason: str, kind: type[MnistEdgeError], expected: str
) -> None:
    """Out of memory names the batch size that was asked for; a failing GPU is no bad file."""
    error = refusal("the model", provider, RuntimeError(reason), "run", 64)
    assert type(error) is kind
    assert expected in error.message
    assert ("--batch" in error.hint) == ("memory to run" in error.message or "of the GPU" in error.message)


def test_a_cuda_graph_is_asked_of_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Capturing is an option of the provider, and off unless it was asked for."""
    made = stand_in(monkeypatch, [CUDA, CPU], {CUDA: 5})
    open_session(b"model", SessionSettings(provider="cuda", cuda_graph=True))
    assert made[-1]["providers"] == [(CUDA, {"use_tf32": "0", "enable_cuda_graph": "1"})]


@pytest.mark.parametrize("level", get_args(Optimization))
def test_every_optimization_takes_effect(level: Optimization, bundle_folder: Path) -> None:
    """What verify and bench were asked for is what the session runs with; `all` is onnxruntime's own default."""
    options = open_session(
        bundle_folder / "model.onnx", SessionSettings(optimization=level)
    ).session.get_session_options()
    names = {"none": "ORT_DISABLE_ALL", "basic": "ORT_ENABLE_BASIC", "extended": "ORT_ENABLE_EXTENDED"}
    default = onnxruntime.SessionOptions().graph_optimization_level
    found = options.graph_optimization_level
    assert (found.name, found == default) == (names.get(level, "ORT_ENABLE_ALL"), level == "all")


@pytest.mark.parametrize("threads", [1, 2])
def test_the_number_of_threads_takes_effect(threads: int, bundle_folder: Path) -> None:
    """A timing under a thread count was taken under it: onnxruntime starts one thread fewer than asked for."""

    def running() -> int:
        return len(os.listdir("/proc/self/task"))

    before = running()
    opened = open_session(bundle_folder / "model.onnx", SessionSettings(threads=threads))
    assert opened.session.get_session_options().intra_op_num_threads == threads
    assert running() - before == threads - 1


@pytest.mark.parametrize(
    ("settings", "key", "value"),
    [
        (SessionSettings(), "session.intra_op.allow_spinning", "1"),
        (SessionSettings(threads=2, spinning=False), "session.intra_op.allow_spinning", "0"),
        (SessionSettings(), "session.disable_prepacking", "0"),
        (SessionSettings(prepacking=False), "session.disable_prepacking", "1"),
    ],
)
def test_spinning_and_prepacking_take_effect(
    settings: SessionSettings, key: str, value: str, bundle_folder: Path
) -> None:
    """onnxruntime ignores a key that it does not know, so that each must also be a word of its own library."""
    options = open_session(bundle_folder / "model.onnx", settings).session.get_session_options()
    assert options.get_session_config_entry(key) == value
    library = next((Path(onnxruntime.__file__).parent / "capi").glob("onnxruntime_pybind11_state*.so"))
    assert key.encode() in library.read_bytes()


def test_settings_are_described_by_what_is_not_the_default() -> None:
    """Two settings have one description only if they are equal."""
    assert SessionSettings().described == "cpu, 1 thread"
    changed = SessionSettings(threads=2, optimization="basic", spinning=False, prepacking=False, io_binding=True)
    assert changed.described == "cpu, 2 threads, optimization basic, no spinning, no prepacking, IO binding"
    on_cuda = SessionSettings(provider="cuda", tf32=True, cuda_graph=True)
    assert on_cuda.described == "cuda, 1 thread, TF32, CUDA graph"
