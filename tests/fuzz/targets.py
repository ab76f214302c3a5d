"""One target a parser: how a sound input is made, how it is changed, and how it is read.

A target's `read` returns a digest of what was read, so that a change that a hash should have caught is seen.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.fuzz.mutate import mutate_array, mutate_bytes, mutate_value


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """One parser.

    Attributes:
        name: for the report.
        file: name of the file, inside the folder of the case, that is changed.
        make: lay a sound case into a folder.
        change: bytes of the file and a random source to the changed bytes.
        read: parse the folder; returns a digest of what was read.
        sealed: whether a hash covers the file: a changed one may be read only as what it was.
    """

    name: str
    file: str
    make: Callable[[Path], None]
    change: Callable[[bytes, random.Random], bytes]
    read: Callable[[Path], str]
    sealed: bool = False


def digest(*values: Any) -> str:
    """Hash arrays, tensors and records by their content."""
    found = hashlib.sha256()
    for value in values:
        found.update(value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode())
    return found.hexdigest()


# IDX -----------------------------------------------------------------------------------------------------------------


def _make_idx(folder: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8)
    (folder / "images").write_bytes(struct.pack(">4B3I", 0, 0, 8, 3, *images.shape) + images.tobytes())


def _read_idx(folder: Path) -> str:
    from mnist_edge.data.idx import read_images

    return digest(read_images(folder / "images"))


# Checkpoints ---------------------------------------------------------------------------------------------------------


def _make_checkpoint(folder: Path) -> None:
    from mnist_edge.training.checkpoint import save_checkpoint
    from mnist_edge.training.loop import checkpoint_of, new_run
    from mnist_edge.training.model import resolve_device
    from mnist_edge.training.recipes import settings_for

    run = new_run(settings_for("fast", dataset="digits", train_images=1437, widths=(8,)))
    device = resolve_device("cpu")
    save_checkpoint(folder, checkpoint_of(run, run.sampler.get_state(), device))


def _read_checkpoint(folder: Path) -> str:
    from mnist_edge.training.checkpoint import load_checkpoint

    found = load_checkpoint(folder / "last.safetensors")
    tensors = [value.numpy() for part in (found.weights, found.momentum) for _, value in sorted(part.items())]
    return digest(*tensors, found.sampler.numpy(), found.curve.numpy(), found.settings, found.progress)


def _change_signed_checkpoint(data: bytes, rng: random.Random) -> bytes:
    """Change tensors or metadata, then put the right sha256 over them: what a forger would do."""
    import torch
    from safetensors.torch import load, save

    from mnist_edge.training.checkpoint import ENTRY, _digest

    (length,) = struct.unpack("<Q", data[:8])
    metadata = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][ENTRY])
    tensors = dict(load(data))
    metadata.pop("sha256")
    for _ in range(rng.choice((1, 1, 2, 3))):
        if rng.random() < 0.5:
            metadata = mutate_value(metadata, rng)
            if not isinstance(metadata, dict):
                metadata = {"schema": metadata}
        else:
            key = rng.choice(list(tensors))
            kind = rng.random()
            if kind < 0.1:
                del tensors[key]
            elif kind < 0.2:
                tensors[key + "x"] = tensors[key].clone()
            else:
                changed = mutate_array(tensors[key].numpy(), rng)
                if changed.dtype.kind not in "USc":
                    tensors[key] = torch.from_numpy(np.ascontiguousarray(changed).copy())
    try:
        entry = json.dumps({**metadata, "sha256": _digest(tensors, metadata)})
    except (TypeError, ValueError):
        entry = "{}"
    return bytes(save(tensors, {ENTRY: entry.encode("utf-8", "replace").decode()}))


# .pth ----------------------------------------------------------------------------------------------------------------


def _make_pth(folder: Path) -> None:
    import torch

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(784, 8), torch.nn.ReLU(), torch.nn.Linear(8, 10))
    torch.save(net.state_dict(), folder / "net.pth")


def _read_pth(folder: Path) -> str:
    from mnist_edge.training.state_dict import read_state_dict

    state = read_state_dict(folder / "net.pth", "seed").network.state_dict()
    return digest(
        *(f"{name} {tuple(value.shape)}" for name, value in state.items()), *(v.numpy() for v in state.values())
    )


def _change_zip(data: bytes, rng: random.Random) -> bytes:
    """Change the container, or one member under a right CRC."""
    if rng.random() < 0.4:
        return mutate_bytes(data, rng)
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(out, "w") as target:
        names = source.namelist()
        chosen = rng.choice(names)
        for name in names:
            content = source.read(name)
            if name == chosen:
                content = mutate_bytes(content, rng)
                if rng.random() < 0.05:
                    continue
            target.writestr(zipfile.ZipInfo(name), content)
    return out.getvalue()


# Bundles -------------------------------------------------------------------------------------------------------------


def _make_bundle(folder: Path) -> None:
    from mnist_edge.data.digits import load_digits
    from mnist_edge.exporting.pipeline import ExportRequest, export_bundle
    from mnist_edge.training.model import build_model

    data = load_digits()
    small = dataclasses.replace(data, test_images=data.test_images[:40], test_labels=data.test_labels[:40])
    export_bundle(ExportRequest(model=build_model((8,)), dataset=small, output=folder / "b", input="uint8", opset=20))


def _read_bundle(folder: Path) -> str:
    from mnist_edge.bundle.folder import load_bundle

    found = load_bundle(folder / "b")
    return digest(found.manifest, *(getattr(found.golden, part.name) for part in dataclasses.fields(found.golden)))


def _change_manifest(data: bytes, rng: random.Random) -> bytes:
    """Change the content under a right sha256."""
    from mnist_edge.bundle.manifest import _dump
    from mnist_edge.files import sha256_bytes

    content = json.loads(data)
    content.pop("sha256")
    for _ in range(rng.choice((1, 1, 2))):
        content = mutate_value(content, rng)
    try:
        if not isinstance(content, dict):
            return _dump(content)
        return _dump({**content, "sha256": sha256_bytes(_dump(content))})
    except (UnicodeEncodeError, ValueError):
        return b"{}"


def _change_golden(data: bytes, rng: random.Random) -> bytes:
    """Change the archive, or an array in it."""
    if rng.random() < 0.3:
        return _change_zip(data, rng)
    with np.load(io.BytesIO(data)) as archive:
        arrays = {name: archive[name] for name in archive.files}
    name = rng.choice(list(arrays))
    arrays[name] = mutate_array(arrays[name], rng)
    if rng.random() < 0.1:
        del arrays[rng.choice(list(arrays))]
    out = io.BytesIO()
    np.savez_compressed(out, **arrays)
    return out.getvalue()


def _read_golden(folder: Path) -> str:
    from mnist_edge.bundle.golden import read_golden

    found = read_golden(folder / "b" / "golden.npz")
    return digest(*(getattr(found, part.name) for part in dataclasses.fields(found)))


# ONNX ----------------------------------------------------------------------------------------------------------------


def _read_onnx(folder: Path) -> str:
    from mnist_edge.runtime.classifier import open_classifier

    classifier = open_classifier(folder / "b" / "model.onnx", normalization="unit")
    return digest(classifier.logits(np.zeros((2, 28, 28), np.uint8)))


def _make_integers(folder: Path) -> None:
    from mnist_edge.integer_network import IntegerLayer, IntegerNetwork
    from mnist_edge.verification.integer_graph import integer_graph

    weight = np.random.default_rng(0).integers(-7, 8, (10, 1, 28, 28)).astype(np.int8)
    ones = np.ones(10, np.int32)
    layer = IntegerLayer(weight=weight, bits=4, multiplier=ones * 3, bias=ones, shift=5, stride=1, size=28)
    (folder / "model.onnx").write_bytes(integer_graph(IntegerNetwork(layers=(layer,)), 20).SerializeToString())


def _read_integers(folder: Path) -> str:
    from mnist_edge.integer_network import check_network
    from mnist_edge.verification.integer_graph import read_integer_network

    network = read_integer_network(folder / "model.onnx")
    check_network(network)
    return digest(*(layer.weight for layer in network.layers))


def _change_onnx(data: bytes, rng: random.Random) -> bytes:
    """Change the bytes, or one attribute, name or dimension of the graph."""
    if rng.random() < 0.6:
        return mutate_bytes(data, rng)
    import onnx

    model = onnx.load_model_from_string(data)
    graph = model.graph
    kind = rng.randrange(8)
    node = rng.choice(list(graph.node))
    if kind == 0:
        node.op_type = rng.choice(
            ("Loop", "If", "Gemm", "MatMul", "Tile", "Expand", "ConstantOfShape", "NoSuch", "\x1b[1m")
        )
    elif kind == 1 and node.input:
        node.input[rng.randrange(len(node.input))] = rng.choice(("", "nothing", graph.input[0].name))
    elif kind == 2:
        value = rng.choice(list(graph.initializer))
        value.dims[0] = rng.choice((0, -1, 1, 2**31, 2**62))
    elif kind == 3:
        value = rng.choice(list(graph.initializer))
        value.data_type = rng.choice((0, 1, 2, 7, 10, 16, 21, 99))
    elif kind == 4:
        shape = graph.input[0].type.tensor_type.shape
        shape.dim[rng.randrange(len(shape.dim))].dim_value = rng.choice((0, 1, 7, 2**31))
    elif kind == 5:
        graph.input[0].type.tensor_type.elem_type = rng.choice((0, 1, 2, 8, 9, 10, 16))
    elif kind == 6:
        model.opset_import[0].version = rng.choice((0, 1, 5, 99, 2**40))
    else:
        model.ir_version = rng.choice((0, 1, 3, 99, 2**40))
    return bytes(model.SerializeToString())


# Text ----------------------------------------------------------------------------------------------------------------


def _make_recipe(folder: Path) -> None:
    (folder / "mine.toml").write_text('base = "fast"\nepochs = 20\nrotation = 5.0\nlr = 0.1\nschedule = "one-cycle"\n')


def _read_recipe(folder: Path) -> str:
    from mnist_edge.training.recipes import find_recipe

    return digest(find_recipe(str(folder / "mine.toml")))


def _make_result(folder: Path) -> None:
    process = {"runs": 500, "p50_us": 100.0, "p90_us": 110.0, "p99_us": 150.0}
    row = {
        "engine": "onnxruntime", "variant": "fp32", "batch": 1,
        "scenario": {"name": "single-stream", "seconds": 0.4, "rate_per_s": None, "gap_ms": None},
        "settings": {"provider": "cpu", "threads": 1, "optimization": "all", "tf32": False, "cuda_graph": False,
                     "spinning": True, "prepacking": True, "io_binding": False},
        "processes": [process] * 5, "samples": 2500, "outliers": 3, "p50_us": 100.0, "p90_us": 110.0, "p99_us": 150.0,
        "p999_us": None, "intervals": {"p50_us": [90.0, 110.0]}, "throughput_per_s": 1e4, "cold_start_ms": 330.0,
        "process_ms": 300.0, "session_ms": 20.0, "first_run_ms": 1.0, "peak_rss_mb": 60.0, "bytes": 2_000_000,
        "ratio_to_torch": None, "server": None, "gpu_calls": None, "placement": {"CPUExecutionProvider": 5},
        "outputs": "64 predictions checked",
    }  # fmt: skip
    from mnist_edge.records.benchmark import BenchReport

    report = {
        "schema": BenchReport.schema, "model": "exported/digits", "weights_sha256": "a" * 64,
        "environment": {"cpu": "A CPU", "cores": 2, "versions": {"numpy": "2.3"}}, "order_seed": 11,
        "reference_work_ms": [5.0], "thread_advice": [],
        "results": [row], "gpu_from_batch": None, "profile": [], "notes": [],
    }  # fmt: skip
    (folder / "bench.json").write_text(json.dumps(report))


def _read_result(folder: Path) -> str:
    from mnist_edge.benchmarking.results import read_result

    return digest(read_result(folder / "bench.json"))


def _make_stored_result(folder: Path) -> None:
    from mnist_edge.bundle.folder import load_bundle
    from mnist_edge.bundle.results import state_of, write_result
    from mnist_edge.data.digits import load_digits
    from mnist_edge.verification.accuracy import evaluate

    _make_bundle(folder)
    bundle, data = load_bundle(folder / "b"), load_digits()
    small = dataclasses.replace(data, test_images=data.test_images[:40], test_labels=data.test_labels[:40])
    report = evaluate(Path("b"), bundle.golden.test_logits, small, variant="fp32")
    write_result(folder / "b", "eval-fp32", state_of(folder / "b"), ("mnist-edge", "eval", "b"), report.to_json())


def _read_stored_result(folder: Path) -> str:
    from mnist_edge.reporting.page.card import write_card
    from mnist_edge.workflow.report import gather_report

    return digest(write_card(gather_report(folder / "b")))


def _change_json(data: bytes, rng: random.Random) -> bytes:
    """Change the text, or a value in it."""
    if rng.random() < 0.3:
        return mutate_bytes(data, rng)
    content = json.loads(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        content = mutate_value(content, rng)
    return json.dumps(content).encode("utf-8", "surrogatepass")


def _settings() -> dict[str, str]:
    return {"--dataset": "digits"}


def _space() -> Any:
    from mnist_edge.sweeping.study import Space

    return Space(lr=(0.01, 0.2), batch_sizes=(32, 64), widths=((8,), (16, 8)))


def _make_study(folder: Path) -> None:
    from mnist_edge.sweeping.study import open_study

    with open_study(folder / "study", _space(), _settings()) as study:
        for accuracy in (0.9, 0.95):
            claimed = study.claim(5)
            assert claimed is not None
            study.finish(claimed[0], [accuracy, accuracy], 1.0)
        claimed = study.claim(5)
        assert claimed is not None
        study.fail(claimed[0], "it diverged", 1.0)


def _read_study(folder: Path) -> str:
    from mnist_edge.sweeping.study import open_study

    with open_study(folder / "study", _space(), _settings()) as study:
        study.finished()
        study.running()
        study.claim(4)
    return ""


TARGETS = (
    Target(name="idx", file="images", make=_make_idx, change=mutate_bytes, read=_read_idx),
    Target(name="checkpoint", file="last.safetensors", make=_make_checkpoint, change=mutate_bytes,
           read=_read_checkpoint, sealed=True),
    Target(name="checkpoint, signed again", file="last.safetensors", make=_make_checkpoint,
           change=_change_signed_checkpoint, read=_read_checkpoint),
    Target(name="pth", file="net.pth", make=_make_pth, change=_change_zip, read=_read_pth),
    Target(name="manifest", file="b/manifest.json", make=_make_bundle, change=mutate_bytes, read=_read_bundle, sealed=True),
    Target(name="manifest, signed again", file="b/manifest.json", make=_make_bundle, change=_change_manifest,
           read=_read_bundle),
    Target(name="golden", file="b/golden.npz", make=_make_bundle, change=mutate_bytes, read=_read_bundle, sealed=True),
    Target(name="golden, read alone", file="b/golden.npz", make=_make_bundle, change=_change_golden, read=_read_golden),
    Target(name="onnx", file="b/model.onnx", make=_make_bundle, change=_change_onnx, read=_read_onnx),
    Target(name="integer network", file="model.onnx", make=_make_integers, change=mutate_bytes, read=_read_integers),
    Target(name="recipe", file="mine.toml", make=_make_recipe, change=mutate_bytes, read=_read_recipe),
    Target(name="bench result", file="bench.json", make=_make_result, change=_change_json, read=_read_result),
    Target(name="stored result", file="b.results/eval-fp32.json", make=_make_stored_result, change=_change_json,
           read=_read_stored_result),
    Target(name="study", file="study/study.db", make=_make_study, change=mutate_bytes, read=_read_study),
)  # fmt: skip
