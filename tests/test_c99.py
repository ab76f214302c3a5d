"""The C target: what is generated computes what the network does, without a warning and without an external symbol."""

from __future__ import annotations

import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mnist_edge.benchmarking import c_worker
from mnist_edge.benchmarking.plan import Plan, resolve_plan
from mnist_edge.benchmarking.process import Task
from mnist_edge.benchmarking.rounds import ENGINES
from mnist_edge.errors import UnavailableError, UsageError
from mnist_edge.exporting.variants import fp16
from mnist_edge.exporting.variants.kind import VariantContext
from mnist_edge.integer_network import IntegerNetwork, check_network, integer_logits
from mnist_edge.pixels import Images
from mnist_edge.records.benchmark import Scenario
from mnist_edge.runtime.session import RefusedModelError
from mnist_edge.targets.c99 import devices
from mnist_edge.targets.c99.folder import folder_files
from mnist_edge.targets.c99.library import build_library, open_library
from mnist_edge.targets.c99.networks import network_logits, read_network
from mnist_edge.targets.c99.program import open_program
from mnist_edge.targets.c99.source import Network, buffer_bytes, constant_bytes, model_files
from mnist_edge.targets.folder import write_folder
from mnist_edge.targets.registry import REGISTRY, find_device
from mnist_edge.verification.linear_chain import LinearChain, LinearLayer
from tests.conftest import mnist_edge
from tests.integer_networks import conv_network, dense_network, layer

needs_compiler = pytest.mark.skipif(
    shutil.which("cc") is None or shutil.which("make") is None, reason="no C compiler: apt-get install gcc make"
)
CPU = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
STRICT = ("-std=c99", "-pedantic", "-Wall", "-Wextra", "-Wconversion", "-Werror")


def images(count: int, seed: int = 3) -> Images:
    """Images of which most pixels are 0, as in digits, and one of 255 only."""
    random = np.random.default_rng(seed)
    found = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
    found[random.random(found.shape) < 0.8] = 0
    found[-1] = 255
    return found


def chain(widths: tuple[int, ...] = (784, 24, 12, 10)) -> LinearChain:
    random = np.random.default_rng(5)
    shapes = list(zip(widths[1:], widths, strict=False))
    return LinearChain(
        layers=tuple(
            LinearLayer(
                weight=(random.normal(size=shape) / np.sqrt(shape[1]) / (255 if number == 0 else 1)).astype(np.float32),
                bias=random.normal(size=shape[0]).astype(np.float32),
                relu=number < len(shapes) - 1,
            )
            for number, shape in enumerate(shapes)
        ),
        input_dtype="uint8",
    )


def mixed_network() -> IntegerNetwork:
    """8 and 4 bits in one network, an odd number of outputs, and a first map that is not kept in memory."""
    random = np.random.default_rng(8)
    layers, size, channels = [], 28, 1
    for outputs, kernel, stride, bits in ((11, 5, 2, 8), (7, 3, 2, 4), (10, 5, 1, 4)):
        most = 100 if bits == 8 else 7
        weight = random.integers(-most, most + 1, (outputs, channels, kernel, kernel)).astype(np.int8)
        multiplier = random.integers(1, 9, outputs)
        layers.append(layer(weight, bits, multiplier, random.integers(-9000, 9000, outputs), 10, stride, size))
        size, channels = (size - kernel) // stride + 1, outputs
    return IntegerNetwork(layers=tuple(layers))


def odd_network() -> IntegerNetwork:
    """4 bits; windows that end with the image and are no multiple of four, blocks of 16, 3 and 1 outputs."""
    random = np.random.default_rng(9)
    layers, size, channels = [], 28, 1
    for outputs, kernel, stride in ((19, 7, 3), (17, 3, 2), (10, 3, 1)):
        weight = random.integers(-7, 8, (outputs, channels, kernel, kernel)).astype(np.int8)
        bias = random.integers(-900, 900, outputs)
        layers.append(layer(weight, 4, random.integers(1, 9, outputs), bias, 7, stride, size))
        size, channels = (size - kernel) // stride + 1, outputs
    return IntegerNetwork(layers=tuple(layers))


NETWORKS: dict[str, Network] = {
    "dense int8": dense_network(1, (70, 33)),  # more outputs than sums in memory
    "dense int4": dense_network(2, (33, 17), bits=4),
    "conv int4": conv_network(3),
    "odd int4": odd_network(),
    "mixed": mixed_network(),
    "float": chain(),
    "one layer": chain((784, 10)),
}


def written(network: Network, folder: Path) -> Path:
    shown = images(16)
    write_folder(folder, folder_files(network, shown, network_logits(network, shown)), "c")
    return folder


@needs_compiler
@pytest.mark.parametrize("name", NETWORKS)
def test_a_shared_library_computes_what_the_network_does(name: str, tmp_path: Path) -> None:
    """Integers bit for bit; float32 to rounding."""
    network, shown = NETWORKS[name], images(50)
    found = open_library(build_library(written(network, tmp_path / "c"))).logits(shown)
    expected = network_logits(network, shown)
    assert np.ptp(expected) > 0
    if isinstance(network, IntegerNetwork):
        check_network(network)
        assert found.tobytes() == expected.tobytes()
    else:
        assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


@needs_compiler
@pytest.mark.parametrize("compiler", ["gcc", pytest.param("clang", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_model_compiles_without_a_warning_and_calls_nothing(name: str, compiler: str, tmp_path: Path) -> None:
    """Not even memcpy and memset, which compilers make of loops that copy or clear; on x86 with AVX2 these alone."""
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed: apt-get install {compiler}")
    for file, text in model_files(NETWORKS[name]).items():
        (tmp_path / file).write_text(text)
    x86 = platform.machine() == "x86_64"
    for level in ("-O2", "-O3", "-Os", *["-O3 -mavx2"] * x86):
        command = [compiler, *STRICT, *level.split(), "-c", "model.c", "-o", "model.o"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        symbols = subprocess.run(["nm", "-u", "model.o"], cwd=tmp_path, capture_output=True, text=True, check=True)
        called = set(symbols.stdout.split()) - {"U"}
        assert called <= ({"memcpy", "memset"} if "avx2" in level else set()), level


@needs_compiler
@pytest.mark.skipif("avx2" not in CPU, reason="this CPU has no AVX2")
def test_avx2_reads_no_foreign_memory_and_computes_the_same(tmp_path: Path) -> None:
    """Without VNNI, which `-march=native` may have; the self-test compares integers, the sanitizer watches its reads."""
    make = ["make", "--silent", "selftest", "DEVICE=host-sanitized", "COMPILER=cc -mavx2"]
    folder = written(odd_network(), tmp_path / "c")
    done = subprocess.run(make, cwd=folder, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("mnist-edge selftest ok"), done.stderr


@needs_compiler
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.lists(st.tuples(st.integers(1, 21), st.integers(1, 6), st.integers(1, 3)), min_size=1, max_size=3),
    bits=st.sampled_from([4, 8]),
    shift=st.integers(0, 12),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_chain_of_convolutions_is_computed(
    tmp_path_factory: pytest.TempPathFactory, shape: list[tuple[int, int, int]], bits: int, shift: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    layers, size, channels, most = [], 28, 1, {8: 127, 4: 7}[bits]
    for outputs, kernel, stride in shape:
        if size < kernel or (size - kernel) // stride + 1 < 1:
            break
        weight = random.integers(-most, most + 1, (outputs, channels, kernel, kernel)).astype(np.int8)
        bias = random.integers(-5000, 5000, outputs)
        layers.append(layer(weight, bits, random.integers(1, 5, outputs), bias, shift, stride, size))
        size, channels = (size - kernel) // stride + 1, outputs
    weight = random.integers(-most, most + 1, (10, channels, size, size)).astype(np.int8)
    layers.append(layer(weight, bits, np.ones(10), random.integers(-5000, 5000, 10), 7, 1, size))
    network, shown = IntegerNetwork(layers=tuple(layers)), images(5, seed)
    library = build_library(written(network, tmp_path_factory.mktemp("random") / "c"))
    # 21 channels of 28x28 with 127s may pass 2^24, where float32 ends; int32 holds them all.
    assert np.array_equal(open_library(library).logits(shown), integer_logits(network, shown))


def test_flash_and_ram_are_stated() -> None:
    """784-70-33-10 in int8: a byte for each weight, 6 for each output; two buffers of uint8 and 64 sums of int32."""
    assert constant_bytes(NETWORKS["dense int8"]) == 784 * 70 + 70 * 33 + 33 * 10 + 6 * 113
    assert buffer_bytes(NETWORKS["dense int8"]) == 70 + 33 + 4 * 64
    assert (
        constant_bytes(NETWORKS["dense int4"]) == 784 * 17 + 33 * 9 + 17 * 5 + 6 * 60
    )  # an odd row ends with half a byte
    assert constant_bytes(NETWORKS["float"]) == 4 * (784 * 24 + 24 * 12 + 12 * 10 + 46)


@pytest.fixture(scope="module")
def generated(bundle_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C folder of the fp32 variant of the small bundle, by the command. Copy it before changing it."""
    folder = tmp_path_factory.mktemp("c99") / "fp32"
    done = mnist_edge(
        "export", "--target", "c", "--bundle", bundle_folder, "--output", folder, "--json", cwd=folder.parent
    )
    assert done.code == 0, done.err
    report = done.json
    assert (report["schema"], report["target"], report["variant"]) == ("mnist-edge/target/1", "c", "fp32")
    assert sorted(file["name"] for file in report["files"]) == sorted(path.name for path in folder.iterdir())
    assert (report["self_test"] is None) == bool(report["self_test_skipped"])
    return folder


@pytest.mark.slow
@needs_compiler
def test_verify_compares_the_program_with_pytorch(bundle_folder: Path, tmp_path: Path) -> None:
    done = mnist_edge("verify", bundle_folder, "--target", "c", "--images", "200", "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    report = done.json
    (found,) = report["variants"]
    assert (report["target"], report["device"], report["passed"]) == ("c", "host", True)
    assert (found["images"], found["flips"], found["requirement"]) == (200, 0, "exact")
    assert 0 <= found["max_abs_error"] < 1e-4


@needs_compiler
def test_a_tampered_file_fails_the_self_test(generated: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(generated, tmp_path / "c")
    command = ["make", "-s", "-C", str(folder), "selftest"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("mnist-edge selftest ok 16 images, sha256 ")
    with (folder / "model.c").open("a") as file:
        file.write("/* one byte more */\n")
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0


def add(name: str, text: str) -> Callable[[Path], None]:
    def plant(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)

    return plant


def own_album(folder: Path) -> None:
    """A user's folder with sums of its own, and a build/ that is no compiler's."""
    shutil.rmtree(folder)
    (folder / "build").mkdir(parents=True)
    (folder / "photo.jpg").write_bytes(b"photo")
    (folder / "build" / "precious.txt").write_bytes(b"precious")
    sums = subprocess.run(["sha256sum", "photo.jpg"], cwd=folder, capture_output=True, check=True).stdout
    (folder / "SHA256SUMS").write_bytes(sums)


@pytest.mark.parametrize(
    ("plant", "message"),
    [
        (own_album, r"holds files that no export wrote \(SHA256SUMS\)"),
        (add("mine.c", "int y;"), r"holds files that no export wrote \(mine.c\)"),
        (add("one.c", "int y;"), "holds changes"),
        (add("SHA256SUMS", f"{'0' * 64}  .mnist-edge-target\n{'0' * 64}  one.c\n"), "holds changes"),
        (lambda folder: (folder / "one.c").unlink(), "holds changes"),
        (lambda folder: (folder / "link").symlink_to("/tmp"), r"no export wrote \(link\)"),
    ],
)
def test_a_folder_of_something_else_is_not_replaced(
    plant: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    """A user's files and edits outlive an export; only what an export wrote, unchanged, is replaced."""
    folder = tmp_path / "c"
    write_folder(folder, {"one.c": b"int x;"}, "c")
    plant(folder)
    before = {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}
    with pytest.raises(UsageError, match=message) as error:
        write_folder(folder, {"two.c": b"int x;"}, "c")
    assert "--output" in error.value.hint
    assert {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")} == before


def test_an_export_is_replaced_with_what_make_left_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    write_folder(folder, {"one.c": b"int x;"}, "c")
    add("build/one.o", "object")(folder)
    with pytest.raises(UsageError, match=r"build/one\.o"):
        write_folder(folder, {"one.c": b"int x;"}, "onnxruntime")
    write_folder(folder, {"two.c": b"int x;"}, "c")
    assert sorted(path.name for path in folder.iterdir()) == [".mnist-edge-target", "SHA256SUMS", "two.c"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("verify", "--target", "c", "--device", "z80"), "it has host, host-sanitized"),
        (("verify", "--device", "host"), "--device has no effect without --target"),
        (("verify", "--target", "c", "--layers"), "--layers does not go with --target"),
        (("export", "--target", "c", "--opset", "21", "--bundle"), "--opset does not go with --target"),
    ],
)
def test_options_that_contradict_each_other_are_2(
    bundle_folder: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = mnist_edge(*arguments, bundle_folder, cwd=tmp_path)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert done.err.count("\n") == 1


def test_what_cannot_be_expressed_is_2(variant_context: VariantContext, tmp_path: Path) -> None:
    """The error names the variant to use instead."""
    (tmp_path / "fp16.onnx").write_bytes(fp16.build(variant_context).model)
    with pytest.raises(UsageError, match="C cannot be generated for the variant fp16") as error:
        read_network(tmp_path / "fp16.onnx", "fp16")
    assert "--variant int8-exact" in error.value.hint
    with pytest.raises(UsageError) as error:
        read_network(tmp_path / "fp16.onnx", "student-6k")
    assert "--variant student-6k-exact" in error.value.hint


def fake(folder: Path, run: str, harness: str = "true") -> Path:
    """A folder whose program does what the shell command `run` does; $(BUILD) is where it reads and writes."""
    folder.mkdir()
    (folder / "Makefile").write_text(f"harness:\n\t@{harness}\nrun:\n\t@{run}\ngolden:\n\t@echo nonsense\n")
    return folder


WRITES = "head -c {} /dev/zero > $(BUILD)/logits.bin"


@needs_compiler
@pytest.mark.parametrize(
    ("run", "message"),
    [
        (WRITES.format(40 * 4 + 4), "wrote 164 bytes for 5 images, expected 204"),
        (WRITES.format(40 * 6 + 4), "wrote 244 bytes for 5 images, expected 204"),
        (WRITES.format(40 * 5 + 4), "reports 0 images, expected 5"),  # the right length, and no count at its end
        ("true", "wrote 0 bytes for 5 images"),
        ("echo garbage > $(BUILD)/logits.bin", "wrote 8 bytes for 5 images"),
        ("echo it broke >&2; exit 3", "failed: it broke"),
        ("kill -SEGV $$$$", "failed: "),
    ],
)
def test_a_program_that_does_not_answer_every_image_is_refused(run: str, message: str, tmp_path: Path) -> None:
    with (
        open_program(fake(tmp_path / "c", run), "host", 60) as program,
        pytest.raises(RefusedModelError, match=message.replace("(", r"\(")),
    ):
        program.logits(images(5))


@needs_compiler
def test_a_program_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    """The emulator is a child of make: it must not live on."""
    folder = fake(tmp_path / "c", "sleep 60 & echo $$! > $(BUILD)/pid; wait")
    started = time.monotonic()
    with open_program(folder, "host", 0.3) as program:
        with pytest.raises(RefusedModelError, match=r"did not end within 0\.3"):
            program.logits(images(1))
        sleeper = int((program.build / "pid").read_text())
    assert time.monotonic() - started < 30
    while (state := Path(f"/proc/{sleeper}/stat")).exists() and state.read_text().split(")")[1].split()[0] != "Z":
        assert time.monotonic() - started < 30  # a killed process ends when it is scheduled next
        time.sleep(0.01)


@needs_compiler
def test_a_self_test_that_prints_something_else_is_refused(tmp_path: Path) -> None:
    with (
        open_program(fake(tmp_path / "c", "true"), "host", 60) as program,
        pytest.raises(RefusedModelError, match="printed 'nonsense'"),
    ):
        program.self_test()


@needs_compiler
def test_what_does_not_compile_is_refused(tmp_path: Path) -> None:
    folder = fake(tmp_path / "c", "true", harness="echo 'model.c:1: error: no type' >&2; exit 1")
    with (
        pytest.raises(RefusedModelError, match=r"failed: model\.c:1: error: no type"),
        open_program(folder, "host", 60),
    ):
        pass


@pytest.mark.parametrize(
    ("compiler", "message", "hint"),
    [
        (" ", "CC names no compiler", "unset CC"),
        ("nope", "needs nope, which is not installed", "unset CC, or install nope"),
        ("nope gcc", "needs nope, which is not installed", "unset CC, or install nope"),
    ],
)
def test_a_compiler_that_is_not_there_is_4(
    compiler: str, message: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", compiler)
    with pytest.raises(UnavailableError, match=message) as error:
        devices.require_tools("host")
    assert error.value.hint == hint


@needs_compiler
def test_a_compiler_that_refuses_an_untouched_export_is_4(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `gcc -m32` without its libraries; of a folder that was changed, the check fails."""
    folder = written(NETWORKS["one layer"], tmp_path / "c")
    monkeypatch.setenv("CC", "cc --no-such-option")
    with pytest.raises(UnavailableError, match="cannot compile generated C") as error, open_program(folder, "host", 60):
        pass
    assert error.value.hint == "unset CC"
    with pytest.raises(UnavailableError, match="cannot compile generated C"):
        build_library(folder)
    (folder / "model.c").write_text("not C")
    with pytest.raises(RefusedModelError, match="failed"), open_program(folder, "host", 60):
        pass


@needs_compiler
@pytest.mark.parametrize(("name", "value"), [("MAKEFLAGS", "-n"), ("MAKEFLAGS", "-e"), ("GNUMAKEFLAGS", "-e")])
def test_make_takes_nothing_from_the_environment(
    name: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not to build, or to build with other flags, would change what is proven."""
    folder = fake(tmp_path / "c", WRITES.format(44), harness="test $(FLAGS) = ours && touch $(BUILD)/made")
    (folder / "Makefile").write_text("FLAGS := ours\n" + (folder / "Makefile").read_text())
    monkeypatch.setenv(name, value)
    monkeypatch.setenv("FLAGS", "theirs")
    with open_program(folder, "host", 60) as program:
        assert (program.build / "made").is_file()


@needs_compiler
def test_folders_may_have_spaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of temporary files, and that of the program."""
    (tmp_path / "tmp $x").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp $x"))
    folder = fake(tmp_path / "my c", WRITES.format(44), harness="touch $(BUILD)/made")
    with open_program(folder, "host", 60) as program:
        assert (program.build / "made").is_file()
        with pytest.raises(RefusedModelError, match="reports 0 images, expected 1"):
            program.logits(images(1))


def test_a_missing_emulator_is_4_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices.shutil, "which", lambda tool: None if "qemu" in tool else f"/usr/bin/{tool}")
    with pytest.raises(UnavailableError, match="needs qemu-system-arm, which is not installed") as error:
        devices.require_tools("cortex-m3")
    assert "qemu-system-arm" in error.value.hint
    devices.require_tools("host")
    monkeypatch.setattr(devices.shutil, "which", lambda tool: None)
    with pytest.raises(UnavailableError, match="needs make and cc, which are not installed"):
        devices.require_tools("host")


def test_devices_are_found_by_name() -> None:
    target = REGISTRY["c"]
    assert (find_device(target, None), find_device(target, "rv32imac")) == ("host", "rv32imac")


@needs_compiler
@pytest.mark.slow
def test_bench_times_generated_c_beside_onnxruntime(bundle_folder: Path) -> None:
    """A candidate of its own, whose outputs are compared with the golden logits."""
    found = resolve_plan(Plan(model=bundle_folder, target="c", scenario=Scenario(name="idle", seconds=0.02, gap_ms=1)))
    timed = [one for one in found.candidates if one.scenario.name == "idle"]
    assert [(one.engine, one.variant) for one in timed] == [("onnxruntime", "fp32"), ("c", "fp32")]
    assert ENGINES["c"] == c_worker.__name__
    task = Task(
        model=str(timed[1].file),
        batch=3,
        golden=str(found.golden),
        scenario=Scenario(seconds=0.02),
        settings=timed[1].settings,
        requirement=timed[1].requirement,
    )
    result = c_worker.measure(task)
    assert result.check is not None
    assert (result.check.problem, result.check.flips) == ("", 0)
    assert result.check.images > 0
    assert min(result.run_ns) > 0


def test_bench_times_no_other_target(bundle_folder: Path) -> None:
    with pytest.raises(UsageError, match="--target web is not timed"):
        resolve_plan(Plan(model=bundle_folder, target="web"))
