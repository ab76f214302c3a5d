"""Files of `torch.save`, whoever wrote them: read as the network that they hold, or refused with keys and shapes."""

from __future__ import annotations

import io
import pickle
import pickletools
import random
import tempfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_checkpoint import made
from test_cli import in_process, one_line
from torch import Tensor, nn

from mnist_edge.contract import NORMALIZATIONS, WIDTHS, Normalization
from mnist_edge.errors import BadFileError, UsageError
from mnist_edge.pixels import AFFINE, normalize
from mnist_edge.records.data import Dataset
from mnist_edge.training.checkpoint import save_checkpoint
from mnist_edge.training.model import (
    build_model,
    normalize_pixels,
    reference_logits,
    rescale_input,
    with_normalization,
)
from mnist_edge.training.state_dict import read_model, read_state_dict

KEYS = ["0.weight", "0.bias", "2.weight", "2.bias"]
SAVE = "torch.save(net.state_dict(), FILE)"
ONNX = "torch.onnx.export"


def state(widths: tuple[int, ...] = (9,)) -> dict[str, Tensor]:
    torch.manual_seed(5)
    return build_model(widths).state_dict()


def renamed(*names: str) -> dict[str, Tensor]:
    """The tensors of a 784-9-10 network under other keys, in the order of the file."""
    return dict(zip(names, state().values(), strict=True))


def saved(folder: Path, content: object, name: str = "net.pth") -> Path:
    torch.save(content, folder / name)
    return folder / name


def refused(path: Path) -> BadFileError:
    """The error that reading ends with; it names the file, in one line."""
    with pytest.raises(BadFileError) as caught:
        read_model(path, "seed")
    assert str(path) in caught.value.message
    assert "\n" not in caught.value.message
    return caught.value


def assert_holds(network: nn.Sequential, tensors: dict[str, Tensor]) -> None:
    found = list(network.state_dict().values())
    assert len(found) == len(tensors)
    assert all(torch.equal(one, other) for one, other in zip(found, tensors.values(), strict=True))


# Names and wrappers ---------------------------------------------------------------------------------------------------

NAMED: dict[str, Callable[[], object]] = {
    "module.": lambda: renamed(*(f"module.{key}" for key in KEYS)),
    "_orig_mod.": lambda: renamed(*(f"_orig_mod.module.{key}" for key in KEYS)),
    "fc1, fc2": lambda: renamed("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"),
    "classifier.0": lambda: renamed(*(f"classifier.{key}" for key in KEYS)),
    "layers.0, layers.1": lambda: renamed("layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias"),
    "linear1, out": lambda: renamed("linear1.weight", "linear1.bias", "out.weight", "out.bias"),
    "W1, b1": lambda: renamed("W1", "b1", "W2", "b2"),
    "weights first": lambda: dict(sorted(renamed("a.weight", "a.bias", "b.weight", "b.bias").items(), reverse=True)),
    "OrderedDict": lambda: OrderedDict(state()),
    "parameters": lambda: {key: nn.Parameter(value) for key, value in state().items()},
    **{
        f"under {key}": lambda key=key: {"epoch": 3, key: state(), "optimizer_state_dict": {"state": {}}, "loss": 0.1}
        for key in ("state_dict", "model_state_dict", "model", "net", "my_own_name")
    },
    "state_dict beside an average": lambda: {"state_dict": state(), "ema": {**state(), "0.bias": torch.ones(9)}},
}


@pytest.mark.parametrize("name", NAMED)
def test_common_names_and_wrappers_are_read(name: str, tmp_path: Path) -> None:
    """The keys are their author's; the chain of matrices says which layer is which."""
    loaded = read_model(saved(tmp_path, NAMED[name]()), "unit")
    assert_holds(loaded.network, state())
    assert loaded.normalization == "unit"
    if name.startswith("under "):
        assert any(name.removeprefix("under ") in note for note in loaded.notes)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_names_of_a_chain_are_read(data: st.DataObject) -> None:
    """Whatever the layers are called and however many there are, in the order of the file."""
    widths = data.draw(st.lists(st.integers(1, 6), max_size=4, unique=True))
    tensors = state(tuple(widths))
    names = data.draw(
        st.lists(
            st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).map(lambda name: name + "."),
            min_size=len(widths) + 1,
            max_size=len(widths) + 1,
            unique=True,
        ).filter(lambda names: not any("weight" in name or "bias" in name for name in names))
    )
    content = {
        name + leaf: tensors[f"{2 * index}.{leaf}"] for index, name in enumerate(names) for leaf in ("weight", "bias")
    }
    with tempfile.TemporaryDirectory() as folder:
        assert_holds(read_state_dict(saved(Path(folder), content), "raw").network, tensors)


def test_names_in_natural_order_serve_where_the_file_is_in_another(tmp_path: Path) -> None:
    """A file that a tool sorted by text has fc10 before fc2; the numbers still say the order."""
    tensors = state((9, 8, 7, 6, 5, 4, 3, 12, 11))
    pairs = [
        (f"fc{index + 1}.{leaf}", tensors[f"{2 * index}.{leaf}"]) for index in range(10) for leaf in ("weight", "bias")
    ]
    loaded = read_model(saved(tmp_path, dict(sorted(pairs))), "seed")
    assert_holds(loaded.network, tensors)


def test_an_order_that_is_not_clear_is_refused(tmp_path: Path) -> None:
    """Square layers chain in any order; where file and names disagree, nothing is guessed."""
    tensors = state((9, 9, 9))
    swapped = [tensors[key] for key in ("0.weight", "0.bias", "4.weight", "4.bias", "2.weight", "2.bias")]
    names = ["0.weight", "0.bias", "4.weight", "4.bias", "2.weight", "2.bias"]
    content = dict(zip(names, swapped, strict=True)) | {"6.weight": tensors["6.weight"], "6.bias": tensors["6.bias"]}
    assert "the order of its layers is not clear: 0.weight, 4.weight" in refused(saved(tmp_path, content)).message


@pytest.mark.parametrize("legacy", [False, True])
def test_both_file_formats_of_torch_are_read(tmp_path: Path, legacy: bool) -> None:
    """A file as torch saves it today, and as it did in 2020."""
    torch.save(state(), tmp_path / "net.pth", _use_new_zipfile_serialization=not legacy)
    loaded = read_model(tmp_path / "net.pth", "seed")
    assert loaded.dataset is None
    assert_holds(loaded.network, state())


def test_a_checkpoint_is_read_under_any_name(tmp_path: Path) -> None:
    """The content says what it is; its own normalisation may be named, another may not."""
    save_checkpoint(tmp_path, made()).rename(tmp_path / "net.pth")
    for normalization in (None, "seed"):
        loaded = read_model(tmp_path / "net.pth", normalization)
        assert (loaded.dataset, loaded.normalization, loaded.notes) == ("digits", "seed", ())
    with pytest.raises(UsageError, match="--normalize unit"):
        read_model(tmp_path / "net.pth", "unit")


# Precision ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn], ids=str)
def test_other_precisions_are_converted_and_that_is_said(dtype: torch.dtype, tmp_path: Path) -> None:
    """Half precision and exact doubles convert without loss."""
    content = {key: value.to(dtype) for key, value in state().items()}
    loaded = read_model(saved(tmp_path, content), "seed")
    assert_holds(loaded.network, {key: value.float() for key, value in content.items()})
    assert f"converted {str(dtype).removeprefix('torch.')} to float32, without loss" in loaded.notes[0]


def test_a_rounded_conversion_is_said(tmp_path: Path) -> None:
    """A double that no float32 holds is rounded to the nearest, and that is reported."""
    content = {key: value.double() * (1 / 3) for key, value in state().items()}
    loaded = read_model(saved(tmp_path, content), "seed")
    assert_holds(loaded.network, {key: value.float() for key, value in content.items()})
    assert "converted float64 to float32, rounded" in loaded.notes[0]


# Refused --------------------------------------------------------------------------------------------------------------


def conv() -> dict[str, Tensor]:
    return {"conv1.weight": torch.zeros(32, 1, 3, 3), "conv1.bias": torch.zeros(32), "fc.weight": torch.zeros(10, 784)}


def batch_norm() -> dict[str, Tensor]:
    norm = nn.BatchNorm1d(9).state_dict()
    return {**state(), **{f"1.{key}": value for key, value in norm.items()}}


def expanded() -> dict[str, Tensor]:
    """An archive of 2 kB whose tensors have 10^10 elements."""
    return {**state((1,)), "0.weight": torch.zeros(1).expand(1, 784), "big": torch.zeros(1).expand(100_000, 100_000)}


REFUSED: dict[str, tuple[Callable[[], object], str, str]] = {
    "CNN": (conv, r"convolutional network .*conv1.weight (32, 1, 3, 3), conv1.bias (32,)", ONNX),
    "BatchNorm": (batch_norm, "BatchNorm", ONNX),
    "no bias": (lambda: {"0.weight": torch.zeros(10, 784)}, "0.weight has no bias (it holds 0.weight (10, 784))", ONNX),
    "wrong input": (lambda: {**state(), "0.weight": torch.zeros(9, 3072)}, "0.weight takes 3072 values, expected 784", ONNX),
    "wrong output": (lambda: {**state(), "2.weight": torch.zeros(47, 9)}, "gives 47 classes, expected 10", ONNX),
    "broken chain": (lambda: {**state(), "2.weight": torch.zeros(10, 8)}, "2.weight takes 8 values, expected 9", ONNX),
    "wrong bias": (lambda: {**state(), "0.bias": torch.zeros(8)}, "0.bias is (8,), expected (9,)", ONNX),
    "transposed": (lambda: {k: v.T.clone() if v.ndim == 2 else v for k, v in state().items()}, "(in, out)", "transpose"),
    "extra": (lambda: {**state(), "extra": torch.zeros(1)}, "extra belongs to no linear layer", ONNX),
    "scalar": (lambda: {**state(), "0.weight": torch.tensor(1.0)}, "2.weight takes 9 values, expected 784", ONNX),
    "LSTM": (lambda: nn.LSTM(28, 8).state_dict(), "weight_ih_l0 takes 28 values", ONNX),
    "number as key": (lambda: {**state(), 3: torch.zeros(1)}, "the key 3 is no name", SAVE),
    "long name": (lambda: {**state(), "9" * 5000: torch.zeros(1)}, "has 5,000 characters", SAVE),
    "superscript": (lambda: {**state((9, 9, 9)), "\u00b2": torch.zeros(9, 9)}, "\u00b2 takes 9 values", ONNX),
    "optimiser": (lambda: {"state": {0: {"momentum_buffer": torch.zeros(9, 784)}}, "param_groups": [{"lr": 0.1}]}, "the state of an optimiser", SAVE),
    "two networks": (lambda: {"student": state(), "teacher": state()}, "several state_dicts: student, teacher", SAVE),
    "empty": (dict, "nothing", SAVE),
    "list": (lambda: [1, 2], "a list", SAVE),
    "tensor": (lambda: torch.zeros(3), "a tensor (3,)", SAVE),
    "text": (lambda: {"0.weight": "text"}, "0.weight (str)", SAVE),
    "NaN": (lambda: {**state(), "0.bias": torch.full((9,), torch.nan)}, "0.bias holds NaN", "earlier"),
    "too large a double": (lambda: {**state(), "0.bias": torch.full((9,), 1e300, dtype=torch.float64)}, "0.bias holds", "earlier"),
    "integers": (lambda: {**state(), "0.bias": torch.zeros(9, dtype=torch.int64)}, "torch.int64", SAVE),
    "sparse": (lambda: {**state(), "0.weight": torch.zeros(9, 784).to_sparse()}, "0.weight is a sparse_coo tensor", SAVE),
    "meta": (lambda: {**state(), "0.weight": torch.zeros(9, 784, device="meta")}, "0.weight is a meta tensor", SAVE),
    "complex": (lambda: {**state(), "0.bias": torch.zeros(9, dtype=torch.complex64)}, "of type complex64", SAVE),
    "expanded": (expanded, "declares 10,000,000", SAVE),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Sparse.*:UserWarning")
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_such_network_is_refused_with_a_fix(name: str, tmp_path: Path) -> None:
    """The line names what was found, keys and shapes included, and a way that works."""
    make, expected, fix = REFUSED[name]
    error = refused(saved(tmp_path, make()))
    for part in expected.split(".*"):
        assert part in error.message
    assert fix in error.hint
    if fix == ONNX:
        assert "(it holds" in error.message


@pytest.mark.filterwarnings("ignore:.*quantize.*:UserWarning")
def test_quantised_and_subclass_tensors_are_refused(tmp_path: Path) -> None:
    """Whatever tensor is no dense array of real numbers, reading ends with one line."""
    quantised = torch.quantize_per_tensor(torch.zeros(9), 0.1, 0, torch.qint8)
    refused(saved(tmp_path, {**state(), "0.bias": quantised}))
    buffer = nn.Buffer(torch.zeros(9))
    refused(saved(tmp_path, {**state(), "0.bias": buffer.as_subclass(Subclass)}))


class Subclass(Tensor):
    """A tensor that would bring its own behaviour."""


def test_a_pickled_network_is_named(tmp_path: Path) -> None:
    """torch.save(net) instead of its state_dict is common; the class that it needs is named."""
    error = refused(saved(tmp_path, build_model((9,))))
    assert "torch.nn.modules" in error.message
    assert "a whole pickled object" in error.message
    assert SAVE in error.hint


class Payload:
    """A pickle of it makes a file when it is read without care."""

    def __init__(self, touched: Path) -> None:
        self.touched = touched

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.touched,)


@pytest.mark.parametrize("form", ["zip", "legacy", "bare pickle", "as safetensors"])
def test_a_payload_never_runs(tmp_path: Path, form: str) -> None:
    """A pickle that would run code is refused without running it, and nobody is told to switch safety off."""
    touched = tmp_path / "touched"
    content = {"0.weight": torch.zeros(10, 784), "payload": Payload(touched)}
    file = tmp_path / ("net.safetensors" if form == "as safetensors" else "net.pth")
    if form in ("zip", "legacy"):
        torch.save(content, file, _use_new_zipfile_serialization=form == "zip")
        torch.load(file, weights_only=False)
    else:
        file.write_bytes(pickle.dumps(Payload(touched), protocol=2))
        pickle.loads(file.read_bytes())
    assert touched.exists()  # the payload works where it is let
    touched.unlink()
    error = refused(file)
    assert not touched.exists()
    assert "weights_only" not in error.message + error.hint


def test_a_zip_bomb_is_refused_before_it_is_expanded(tmp_path: Path) -> None:
    """Members that expand to more than the file holds are not what torch.save writes."""
    bomb = tmp_path / "net.pth"
    with zipfile.ZipFile(saved(tmp_path, state(), "real.pth")) as source, zipfile.ZipFile(bomb, "w") as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
        target.writestr("archive/data/9", bytes(50_000_000), zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size < 200_000
    assert "declares 50," in refused(bomb).message


@pytest.mark.parametrize("form", ["zip", "stream"])
def test_nested_keys_that_overflow_the_stack_are_refused(form: str, tmp_path: Path) -> None:
    """A tuple nested a million times, as the key of a dict, would end the process when it is hashed."""
    nested = b"\x80\x02}K\x01" + b"\x85" * 1_000_000 + b"K\x01s."
    path = tmp_path / "net.pth"
    if form == "zip":
        with zipfile.ZipFile(saved(tmp_path, state(), "real.pth")) as source, zipfile.ZipFile(path, "w") as target:
            for name in source.namelist():
                target.writestr(name, nested if name.endswith("data.pkl") else source.read(name))
    else:
        torch.save(state(), tmp_path / "real.pth", _use_new_zipfile_serialization=False)
        whole = (tmp_path / "real.pth").read_bytes()
        stream = io.BytesIO(whole)
        for _ in range(3):  # magic number, protocol, byte order; the content follows
            list(pickletools.genops(stream))
        path.write_bytes(whole[: stream.tell()] + nested)
    assert "tuples" in refused(path).message


def damaged_versions(whole: bytes) -> list[bytes]:
    """The file cut in many places, and with single bits flipped in its structure."""
    places = random.Random(2)
    versions = [whole[:end] for end in range(0, len(whole), len(whole) // 40)]
    for _ in range(600):
        changed = bytearray(whole)
        changed[places.randrange(1500)] ^= 1 << places.randrange(8)
        versions.append(bytes(changed))
    return versions


def test_a_damaged_state_dict_is_refused_or_whole(tmp_path: Path) -> None:
    """Whatever is wrong inside a .pth, the result is a network or one error that names the file; never a warning."""
    whole = saved(tmp_path, state((4,))).read_bytes()
    file, unexpected = tmp_path / "net.pth", []
    for version in damaged_versions(whole):
        file.write_bytes(version)
        try:
            read_model(file, "seed")
        except Exception as error:  # noqa: BLE001 - whatever it is, it is judged below
            if not (isinstance(error, BadFileError) and str(file) in error.message):
                unexpected.append(repr(error))
    assert not unexpected


def test_a_flipped_weight_of_a_state_dict_is_refused(tmp_path: Path) -> None:
    """torch.load does not look at the check sums in a .pth; a changed weight is still no weight to work with."""
    whole = saved(tmp_path, state((4,))).read_bytes()
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        weight = next(info for info in archive.infolist() if info.filename.endswith("data/0"))
    damaged = bytearray(whole)
    damaged[weight.header_offset + 1000] ^= 1
    (tmp_path / "net.pth").write_bytes(damaged)
    assert "CRC" in refused(tmp_path / "net.pth").message


# Normalisation --------------------------------------------------------------------------------------------------------


def test_the_normalisation_is_demanded(tmp_path: Path) -> None:
    """A state_dict does not state it, so nothing is guessed; the likely values are named."""
    with pytest.raises(UsageError) as caught:
        read_model(saved(tmp_path, state()))
    assert "net.pth" in caught.value.message
    for part in ("--normalize", *NORMALIZATIONS, "x / 255"):
        assert part in caught.value.hint


def test_only_the_exact_form_of_the_seed_brings_its_normalisation(tmp_path: Path) -> None:
    """The seed's keys, shapes and dtype are recognised and that is said; anything else demands the option."""
    content = state(WIDTHS)
    loaded = read_model(saved(tmp_path, content))
    assert loaded.normalization == "seed"
    assert any("assuming --normalize seed" in note for note in loaded.notes)
    assert read_model(tmp_path / "net.pth", "unit").normalization == "unit"
    others = [
        {f"module.{key}": value for key, value in content.items()},
        {"state_dict": content},
        {key: value.half() for key, value in content.items()},
        state((600, 400, 200, 101)),
    ]
    for other in others:
        with pytest.raises(UsageError, match="normalised"):
            read_model(saved(tmp_path, other))


def test_the_assumed_activation_is_said(tmp_path: Path) -> None:
    """A state_dict cannot tell Tanh from ReLU; without a hidden layer there is nothing to assume."""
    assert any("assuming ReLU" in note for note in read_model(saved(tmp_path, state()), "unit").notes)
    assert not any("assuming ReLU" in note for note in read_model(saved(tmp_path, state(())), "unit").notes)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_torch_and_numpy_normalise_alike(normalization: Normalization) -> None:
    """Bit for bit: the network in PyTorch and the session in onnxruntime see the same pixels."""
    pixels = np.arange(256, dtype=np.uint8)
    in_torch = normalize_pixels(torch.tensor(pixels), normalization).numpy()
    assert np.array_equal(in_torch, normalize(pixels, normalization))
    divisor, shift = AFFINE[normalization]
    np.testing.assert_allclose(in_torch, pixels / divisor + shift, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_weights_are_rescaled_in_float64_and_rounded_once(normalization: Normalization) -> None:
    """The folded first layer is the float32 nearest to the exact one; folding in float32 is off in some element."""
    torch.manual_seed(3)
    model = build_model((32,))
    divisor, shift = AFFINE[normalization]
    first = rescale_input(model, divisor, shift)[0]
    weight, bias = (model[0].weight.detach().numpy().astype(np.longdouble), model[0].bias.detach().numpy())
    assert np.array_equal(first.weight.detach().numpy(), (weight / np.longdouble(divisor)).astype(np.float32))
    exact = bias.astype(np.longdouble) + np.longdouble(shift) * weight.sum(axis=1)
    assert np.array_equal(first.bias.detach().numpy(), exact.astype(np.float32))
    if shift:
        careless = model[0].bias + shift * model[0].weight.sum(dim=1)
        assert not np.array_equal(first.bias.detach().numpy(), careless.detach().numpy())


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_weights_for_training_give_the_same_logits(normalization: Normalization, digits: Dataset) -> None:
    """A network of another normalisation, converted to the seed's, predicts the same; converted back as well."""
    torch.manual_seed(3)
    model = build_model((16,))
    expected = reference_logits(model, digits.test_images, normalization=normalization)
    converted = with_normalization(model, normalization, "seed")
    found = reference_logits(converted, digits.test_images)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    back = with_normalization(converted, "seed", normalization)
    found = reference_logits(back, digits.test_images, normalization=normalization)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


# Commands -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory, digits: Dataset) -> Path:
    """A folder with unit.pth: a 784-24-10 network that was trained on x / 255 by nobody we know."""
    folder = tmp_path_factory.mktemp("foreign")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(784, 24), nn.ReLU(), nn.Linear(24, 10))
    pixels, labels = (
        torch.tensor(digits.train_images).flatten(1).float() / 255,
        torch.tensor(digits.train_labels).long(),
    )
    for _ in range(150):
        model.zero_grad()
        nn.functional.cross_entropy(model(pixels), labels).backward()
        with torch.no_grad():
            for value in model.parameters():
                value.sub_(0.3 * value.grad)
    torch.save(model.state_dict(), folder / "unit.pth")
    return folder


def own_logits(foreign: Path, digits: Dataset) -> np.ndarray:
    """The logits of unit.pth by numpy alone."""
    weights = {key: value.numpy() for key, value in torch.load(foreign / "unit.pth").items()}
    hidden = np.maximum(digits.test_images.reshape(-1, 784) / 255 @ weights["0.weight"].T + weights["0.bias"], 0)
    return hidden @ weights["2.weight"].T + weights["2.bias"]


@pytest.mark.parametrize(
    "command",
    [
        ("eval", "unit.pth", "--dataset", "digits"),
        ("export", "--run", "unit.pth", "--dataset", "digits"),
        ("train", "--resume", "unit.pth", "--dataset", "digits", "--run", "run"),
    ],
    ids=lambda command: command[0],
)
def test_commands_demand_the_normalisation(command: tuple[str, ...], foreign: Path) -> None:
    """Exit 2, naming the option, before anything is written."""
    done = in_process(*command, cwd=foreign)
    assert done.code == 2, done.err
    assert "--normalize unit" in one_line(done.err)
    assert sorted(path.name for path in foreign.iterdir()) == ["unit.pth"]


def test_eval_uses_the_normalisation_and_suspects_another(foreign: Path, digits: Dataset) -> None:
    """The right one gives the network's own accuracy and no word; a wrong one is evaluated, and the right one named."""
    expected = float((own_logits(foreign, digits).argmax(axis=1) == digits.test_labels).mean())
    assert expected > 0.8
    done = in_process("eval", "unit.pth", "--normalize", "unit", "--dataset", "digits", "--json", cwd=foreign)
    assert done.code == 0, done.err
    assert done.json["accuracy"] == pytest.approx(expected)
    assert "assuming ReLU" in done.err
    assert "instead of" not in done.err
    done = in_process("eval", "unit.pth", "--normalize", "seed", "--dataset", "digits", "--json", cwd=foreign)
    assert done.code == 0, done.err
    assert done.json["accuracy"] < expected - 0.05
    unit = f"with --normalize unit accuracy is {expected:.1%} instead of {done.json['accuracy']:.1%}"
    assert unit in done.err


@pytest.mark.slow
def test_export_folds_the_normalisation_and_verify_passes(foreign: Path, digits: Dataset, tmp_path: Path) -> None:
    """The exported graph takes raw images and predicts as the network does on its own pixels."""
    import onnxruntime

    target = tmp_path / "bundle"
    done = in_process(
        "export", "--run", "unit.pth", "--normalize", "unit", "--dataset", "digits", "--output", target, cwd=foreign
    )
    assert done.code == 0, done.err
    assert "assuming ReLU" in done.err
    session = onnxruntime.InferenceSession(target / "model.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"image": digits.test_images})
    np.testing.assert_allclose(logits, own_logits(foreign, digits), atol=1e-4)
    against = ("verify", target / "model.onnx", "--against", "unit.pth", "--dataset", "digits")
    assert in_process(*against, "--normalize", "unit", cwd=foreign).code == 0
    assert in_process(*against, "--normalize", "mnist", cwd=foreign).code == 1
    done = in_process(*against, cwd=foreign)
    assert done.code == 2
    assert "--normalize unit" in one_line(done.err)


@pytest.mark.slow
def test_the_float_form_states_the_normalisation(foreign: Path, tmp_path: Path) -> None:
    """`--input float` leaves the weights as they are; file and manifest say what the caller must do."""
    target = tmp_path / "bundle"
    arguments = ("export", "--run", "unit.pth", "--normalize", "unit", "--input", "float", "--dataset", "digits")
    done = in_process(*arguments, "--output", target, cwd=foreign)
    assert done.code == 0, done.err
    assert '"normalization": "unit"' in (target / "manifest.json").read_text()
    assert "comparing onnxruntime with PyTorch" in done.err
    done = in_process("verify", target, "--against", "unit.pth", "--normalize", "unit", cwd=foreign)
    assert done.code == 0, done.err


@pytest.mark.slow
def test_training_goes_on_from_another_normalisation(foreign: Path, digits: Dataset, tmp_path: Path) -> None:
    """The first layer is converted, so that the start is the network as it was; a checkpoint takes no such option."""
    run = tmp_path / "run"
    start = ("train", "--dataset", "digits", "--epochs", "1", "--lr", "1e-30", "--run", run)
    done = in_process(*start, "--resume", "unit.pth", "--normalize", "unit", "--json", cwd=foreign)
    assert done.code == 0, done.err
    assert "converted from unit" in done.err
    expected = float((own_logits(foreign, digits).argmax(axis=1) == digits.test_labels).mean())
    assert done.json["test_accuracy"] == pytest.approx(expected, abs=0.006)
    done = in_process("train", "--resume", run, "--normalize", "unit", cwd=foreign)
    assert done.code == 2
    assert "--normalize" in one_line(done.err)


def test_the_published_file_of_the_seed_has_its_accuracy(mnist_folder: Path, tmp_path: Path) -> None:
    """98.26 % on the 10,000 test images of MNIST, and the assumed normalisation is reported."""
    path = mnist_folder / "seed" / "mnist.pth"
    if not path.exists():
        pytest.skip("the seed's mnist.pth is not beside MNIST")
    done = in_process("eval", path, "--data-dir", mnist_folder, "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    assert done.json["accuracy"] == 0.9826
    assert "assuming --normalize seed" in done.err
    assert "instead of" not in done.err
