"""Checkpoints with a valid sha256 and content that no run can have written: each is refused before any of it is used."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from test_checkpoint import made

from mnist_edge.errors import BadFileError, CheckFailedError, MnistEdgeError, UsageError
from mnist_edge.records.data import Dataset
from mnist_edge.training import checkpoint as checkpoints
from mnist_edge.training.checkpoint import LAST, load_checkpoint, save_checkpoint
from mnist_edge.training.loop import Hooks, new_run, train
from mnist_edge.training.recipes import RANGES, find_recipe, settings_for
from mnist_edge.training.run import resume_run, train_run

Content = tuple[dict[str, Any], dict[str, torch.Tensor]]


def content_of(path: Path) -> Content:
    """The metadata without their sha256, and the tensors."""
    with checkpoints.safe_open(path, framework="pt") as file:
        metadata = json.loads(file.metadata()[checkpoints.ENTRY])
        tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
    del metadata["sha256"]
    return metadata, tensors


def signed(path: Path, metadata: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Path:
    """Write a checkpoint whose sha256 is right, whatever it holds."""
    tensors = {key: value.contiguous() for key, value in tensors.items()}
    entry = json.dumps({**metadata, "sha256": checkpoints._digest(tensors, metadata)})
    path.write_bytes(save(tensors, {checkpoints.ENTRY: entry}))
    return path


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> Content:
    """Of a valid checkpoint. Do not change it."""
    return content_of(save_checkpoint(tmp_path_factory.mktemp("made"), made()))


def replaced(metadata: dict[str, Any], field: str, value: Any) -> dict[str, Any]:
    """A copy with one field, named as in `progress.history.0.loss`, replaced."""
    changed = copy.deepcopy(metadata)
    *path, last = [int(part) if part.isdigit() else part for part in field.split(".")]
    place: Any = changed
    for part in path:
        place = place[part]
    place[last] = value
    return changed


NAN, INF = float("nan"), float("inf")
METADATA = [
    ("settings.recipe.batch_size", -64),
    ("settings.recipe.batch_size", 2**40),
    ("settings.recipe.epochs", 10**9),
    ("settings.recipe.lr", NAN),
    ("settings.recipe.momentum", 1.5),
    ("settings.recipe.shift", 10_000),
    ("settings.recipe.dropout", 0.5),
    ("settings.epochs", 5),
    ("settings.widths", [2**31]),
    ("settings.widths", [6] * 1000),
    ("settings.widths", [6, -5]),
    ("settings.seed", -1),
    ("settings.seed", 2**64),
    ("settings.recipe", []),
    ("progress.epoch", -1),
    ("progress.epoch", 10**6),
    ("progress.epoch", 1),
    ("progress.step", -1),
    ("progress.step", 2**40),
    ("progress.seconds", INF),
    ("progress.history", []),
    ("progress.history.0.loss", NAN),
    ("progress.history.0.loss", -1.0),
    ("progress.history.0.epoch", 2),
    ("progress.history.0.seconds", -1.0),
    ("progress.history.1.holdout_accuracy", 1.5),
    ("progress.history.1.learning_rate", INF),
    ("environment.threads", 10**9),
    ("environment.threads", "2"),
    ("environment.device", None),
    ("environment", 3),
]


@pytest.mark.parametrize(("field", "value"), METADATA, ids=lambda value: str(value)[:40])
def test_a_field_outside_its_range_is_refused_by_name(tmp_path: Path, content: Content, field: str, value: Any) -> None:
    """Settings, counters, history and environment: the file and the field are named."""
    metadata, tensors = content
    path = signed(tmp_path / LAST, replaced(metadata, field, value), tensors)
    with pytest.raises(BadFileError) as caught:
        load_checkpoint(path)
    assert str(path) in caught.value.message
    assert field.rsplit(".", maxsplit=1)[-1] in caught.value.message


def changed_byte(state: torch.Tensor) -> torch.Tensor:
    """A generator state of the right size whose position in the Mersenne twister is far outside."""
    changed = state.clone()
    changed[8:24] = 255
    return changed


TENSORS: list[tuple[str, Callable[[torch.Tensor], torch.Tensor | None]]] = [
    ("momentum.0.weight", lambda value: value[:-1]),
    ("momentum.0.weight", lambda value: value.T),
    ("momentum.2.bias", lambda _value: torch.zeros(1)),
    ("momentum.2.bias", lambda _value: torch.zeros(2**16)),
    ("momentum.2.weight", lambda value: value.double()),
    ("momentum.2.weight", lambda value: value.half()),
    ("momentum.2.weight", lambda value: value.int()),
    ("momentum.2.weight", lambda value: value * NAN),
    ("momentum.4.weight", lambda _value: None),
    ("momentum.9.weight", lambda _value: torch.zeros(3)),
    ("model.2.weight", lambda value: value.T),
    ("model.0.bias", lambda value: value.double()),
    ("extra", lambda _value: torch.zeros(3)),
    ("rng.sampler", lambda value: value[:-1]),
    ("rng.sampler", lambda value: value.float()),
    ("rng.sampler", changed_byte),
    ("epoch.loss_sum", lambda value: value * INF),
    ("epoch.loss_sum", lambda _value: torch.zeros(2)),
    ("curve", lambda value: value.reshape(7, 1)),
    ("curve", lambda value: value.double()),
    ("curve", lambda value: value * NAN),
]  # fmt: skip


@pytest.mark.parametrize("case", range(len(TENSORS)))
def test_a_tensor_of_another_kind_is_refused_by_name(tmp_path: Path, content: Content, case: int) -> None:
    """Name, shape, dtype, finiteness of every tensor: torch's fused SGD would write past a momentum buffer's end."""
    name, change = TENSORS[case]
    metadata, tensors = content
    changed = {**tensors, name: change(tensors.get(name, torch.zeros(())))}
    path = signed(tmp_path / LAST, metadata, {key: value for key, value in changed.items() if value is not None})
    with pytest.raises(BadFileError) as caught:
        load_checkpoint(path)
    assert str(path) in caught.value.message
    assert name.removeprefix("model.") in caught.value.message


def test_momentum_of_plain_sgd_is_refused(tmp_path: Path, content: Content) -> None:
    """Plain SGD keeps none; and with momentum none may be missing once a step is done."""
    metadata, tensors = content
    plain = replaced(metadata, "settings.recipe.momentum", 0.0)
    with pytest.raises(BadFileError, match=r"momentum\.0\.\w+ is not a tensor"):
        load_checkpoint(signed(tmp_path / LAST, plain, tensors))
    bare = {key: value for key, value in tensors.items() if not key.startswith("momentum.")}
    load_checkpoint(signed(tmp_path / LAST, plain, bare))
    with pytest.raises(BadFileError, match=r"momentum\.0\.weight is missing"):
        load_checkpoint(signed(tmp_path / LAST, metadata, bare))


scalars = st.one_of(
    st.integers(-(2**70), 2**70), st.floats(), st.sampled_from([0, 1, -1, 2**31, 2**63, 10**400, None, True, "", "x", [], {}])
)  # fmt: skip


def mutated(data: st.DataObject, content: Content) -> Content:
    """Change one field of the metadata or one tensor, or add or remove one."""
    metadata, tensors = copy.deepcopy(content[0]), dict(content[1])
    if data.draw(st.booleans()):
        place: Any = metadata
        while True:
            key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
            if not place[key] or not isinstance(place[key], dict | list) or data.draw(st.integers(0, 9)) == 0:
                break
            place = place[key]
        if data.draw(st.integers(0, 4)):
            place[key] = data.draw(scalars)
        else:
            del place[key]
    else:
        name = data.draw(st.sampled_from([*sorted(tensors), "momentum.6.weight", "other"]))
        if name in tensors and data.draw(st.integers(0, 4)) == 0:
            del tensors[name]
        else:
            shape = data.draw(st.lists(st.integers(0, 40), max_size=3))
            kind = data.draw(st.sampled_from([torch.float32, torch.float64, torch.uint8, torch.int64, torch.float16]))
            fill = data.draw(st.sampled_from([0, 1, 255]))
            same = name in tensors and data.draw(st.booleans())
            tensors[name] = torch.full(tensors[name].shape if same else shape, fill, dtype=kind)
    return metadata, tensors


def survives(path: Path, content: Content, digits: Dataset) -> bool:
    """Load a checkpoint and train one step on with it; True if it loads. Any other error than ours comes out."""
    path = signed(path, *content)
    try:
        start = resume_run(path, None)
        train_run(
            start, digits, path.parent, device="cpu", notify=lambda _line: None, on_step=lambda _done, _all: None,
            on_epoch=lambda _record: None, stop=lambda: True,
        )  # fmt: skip
    except (BadFileError, CheckFailedError):  # refused, or its loss diverged
        return False
    except UsageError:
        assert content[0]["settings"].get("dataset") != "digits" or content[0]["settings"].get("fingerprint")
        return False
    return True


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, digits: Dataset) -> tuple[Path, Content]:
    """A run of the digits that was stopped in its second epoch."""
    folder = tmp_path_factory.mktemp("real")
    run, steps = new_run(settings_for("fast", dataset="digits", train_images=1437, widths=(6, 5), epochs=3)), []
    hooks = Hooks(
        save=lambda state: save_checkpoint(folder, state),
        on_step=lambda done, _all: steps.append(done),
        stop=lambda: len(steps) == 15,
    )
    assert not train(run, digits, torch.device("cpu"), hooks)
    return folder / LAST, content_of(folder / LAST)


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_signed_content_crashes_or_misleads(
    real: tuple[Path, Content], digits: Dataset, data: st.DataObject
) -> None:
    """Whatever is changed: one error that names the file, or a run of the same network on finite numbers."""
    path, content = real
    changed = mutated(data, content)
    if survives(path, changed, digits):
        after = load_checkpoint(path)
        assert all(bool(value.isfinite().all()) for value in (*after.weights.values(), *after.momentum.values()))
        assert all(math.isfinite(record.loss) for record in after.progress.history)


def test_a_position_outside_the_data_is_refused(real: tuple[Path, Content], digits: Dataset) -> None:
    """A step past the end of the epoch, or a curve of another length, is found as soon as the data set is known."""
    path, (metadata, tensors) = real
    for changed, field in (
        ((replaced(metadata, "progress.step", 11), tensors), "progress.step is 11"),
        ((metadata, {**tensors, "curve": torch.zeros(2)}), "curve has 2 losses, expected 1"),
    ):
        signed(path, *changed)
        with pytest.raises(BadFileError, match=field):
            train_run(
                resume_run(path, None), digits, path.parent, device="cpu", notify=print, on_step=print, on_epoch=print, stop=lambda: True,
            )  # fmt: skip


def test_a_header_that_declares_too_much_is_refused_unread(tmp_path: Path) -> None:
    """A header longer than its file, or than any run writes, and a tensor of a terabyte in a sparse file: 3 at once."""
    path = tmp_path / LAST
    path.write_bytes((2**40).to_bytes(8, "little") + b"{}")
    with pytest.raises(BadFileError, match="header declares 1099511627776 bytes, expected at most 2"):
        load_checkpoint(path)
    with path.open("wb") as file:
        file.write((99_000_000).to_bytes(8, "little"))
        file.truncate(100_000_000)
    with pytest.raises(BadFileError, match="header declares 99000000"):
        load_checkpoint(path)
    size = 2**40
    text = json.dumps({"a": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + size)
    with pytest.raises(BadFileError, match=r"mmap|schema"):
        load_checkpoint(path)


@pytest.mark.parametrize("bound", [0, 1])
def test_every_setting_has_both_ends(bound: int) -> None:
    """The project's recipes are inside; just outside either end of each range is refused, as an option and in a file."""
    assert set(RANGES) == set(vars(find_recipe("fast"))) - {"name", "schedule"}
    for name in ("epochs", "lr", "momentum", "weight_decay", "batch_size"):
        outside = RANGES[name][bound] + (1 if bound else -1)
        with pytest.raises(MnistEdgeError, match=f"--{name.replace('_', '-')} ") as caught:
            settings_for("fast", dataset="digits", train_images=1437, **{name: outside})
        assert caught.value.exit_code == 2
