"""`mnist-edge score`: every image once, in order, whatever ends a run. Ray itself runs in the slow tests."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from test_bundle import rewrite_bundle
from test_cli import in_process, one_line

from mnist_edge.bundle.folder import load_bundle
from mnist_edge.bundle.manifest import MANIFEST
from mnist_edge.data.idx import idx_bytes
from mnist_edge.data.layout import TEST_FILES
from mnist_edge.errors import BadFileError, CheckFailedError, UnavailableError
from mnist_edge.files import sha256_file
from mnist_edge.pixels import softmax
from mnist_edge.records.data import Dataset
from mnist_edge.runtime.classifier import open_classifier
from mnist_edge.scoring import plan, run, worker
from mnist_edge.scoring.output import open_parts
from mnist_edge.scoring.plan import Block, blocks_of, open_input
from mnist_edge.scoring.worker import ScoreJob, score_block
from mnist_edge.workflow.score import plan_of

SCORE = ("score", "set", "--output", "scores.parquet", "--model", "bundle")


@pytest.fixture
def place(bundle_folder: Path, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a bundle, and the test set of the digits as `set`, in blocks of 50."""
    shutil.copytree(bundle_folder, tmp_path / "bundle")
    write_set(tmp_path / "set", digits.test_images, digits.test_labels)
    monkeypatch.setitem(plan.BLOCK, "idx", 50)
    monkeypatch.setitem(plan.BLOCK, "photos", 4)
    return tmp_path


def write_set(folder: Path, images: np.ndarray, labels: np.ndarray | None) -> Path:
    folder.mkdir()
    (folder / TEST_FILES[0]).write_bytes(idx_bytes(images))
    if labels is not None:
        (folder / TEST_FILES[1]).write_bytes(idx_bytes(labels))
    return folder


@dataclasses.dataclass
class Here:
    """In the place of Ray: blocks are scored in this process, the last one first, at most `most` of them."""

    workers: int = 1
    most: int | None = None
    scored: list[int] = dataclasses.field(default_factory=list)

    def run(self, job: ScoreJob, blocks: tuple[Block, ...], keep: Callable[[int, bytes], None]) -> None:
        for block in reversed(blocks):
            if self.most is not None and len(self.scored) == self.most:
                raise UnavailableError("the power failed")
            keep(block.number, score_block(job, block))
            self.scored.append(block.number)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Here:
    found = Here()

    @contextmanager
    def connected(_address: str | None, _workers: int | None) -> Iterator[Here]:
        yield found

    monkeypatch.setattr(run, "connected", connected)
    return found


def test_blocks_cover_every_image_once() -> None:
    """No image is lost between two blocks, and none is scored twice."""
    for images, size in ((1, 50), (50, 50), (51, 50), (360, 7)):
        numbers = [image for block in blocks_of(images, size) for image in range(block.start, block.stop)]
        assert numbers == list(range(images))


def test_every_image_has_its_row(place: Path, here: Here, digits: Dataset) -> None:
    """Labels and probabilities are those of the model run on all images at once; the file says what made them."""
    done = in_process(*SCORE, "--json", cwd=place)
    assert (done.code, done.err) == (0, "")
    bundle = load_bundle(place / "bundle")
    (variant,) = bundle.manifest.variants
    logits = open_classifier(bundle.file(variant)).logits(digits.test_images)
    table = pq.read_table(place / "scores.parquet")
    assert table["image"].to_pylist() == list(range(360))
    assert table["label"].to_pylist() == logits.argmax(axis=1).tolist()
    assert table["label_true"].to_pylist() == digits.test_labels.tolist()
    probabilities = softmax(logits, variant.temperature).max(axis=1)
    np.testing.assert_allclose(table["probability"].to_numpy(), probabilities, rtol=1e-5)
    stated = json.loads(table.schema.metadata[b"mnist_edge"])
    assert (stated["bundle"], stated["variant"]) == (sha256_file(place / "bundle" / MANIFEST), "fp32")
    assert stated["settings"]["threads"] == 1
    right = float((logits.argmax(axis=1) == digits.test_labels).mean())
    assert (done.json["accuracy"], done.json["resumed"], done.json["plan"]["images"]) == (right, 0, 360)
    assert not (place / "scores.parquet.parts").exists()
    assert here.scored == list(range(7, -1, -1))


def test_a_run_that_was_ended_is_continued_to_the_same_bytes(place: Path, here: Here) -> None:
    """Finished blocks are not repeated, a damaged one is; the result has the bytes of an uninterrupted run."""
    assert in_process(*SCORE, cwd=place).code == 0
    whole = (place / "scores.parquet").read_bytes()
    (place / "scores.parquet").unlink()
    here.most, here.scored = 3, []
    assert in_process(*SCORE, cwd=place).code == 4
    assert not (place / "scores.parquet").exists()
    assert here.scored == [7, 6, 5]
    damaged = place / "scores.parquet.parts" / "00000006.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-9])
    (damaged.parent / ".writing-x").write_text("of a killed run")
    here.most, here.scored = None, []
    done = in_process(*SCORE, "--json", cwd=place)
    assert (done.code, done.json["resumed"], here.scored) == (0, 60, [6, 4, 3, 2, 1, 0])
    assert (place / "scores.parquet").read_bytes() == whole


@pytest.mark.parametrize("changed", ["variant", "input", "bundle", "plan.json"])
def test_blocks_of_another_run_are_not_mixed_in(
    changed: str, place: Path, two_variant_bundle: Path, here: Here, digits: Dataset
) -> None:
    """Another variant, input or bundle under the same output is refused with 2, and nothing is lost."""
    shutil.rmtree(place / "bundle")
    shutil.copytree(two_variant_bundle, place / "bundle")
    here.most = 2
    assert in_process(*SCORE, cwd=place).code == 4
    options: tuple[str, ...] = ()
    if changed == "variant":
        options = ("--variant", "int8")
    elif changed == "input":
        shutil.rmtree(place / "set")
        write_set(place / "set", digits.test_images[::-1], digits.test_labels)
    elif changed == "bundle":
        manifest = place / "bundle" / MANIFEST
        from mnist_edge.bundle.manifest import manifest_bytes, read_manifest

        manifest.write_bytes(manifest_bytes(dataclasses.replace(read_manifest(manifest), choice="fp32")))
    else:
        (place / "scores.parquet.parts" / "plan.json").write_text("{")
    before = sorted(path.name for path in (place / "scores.parquet.parts").iterdir())
    here.most = None
    done = in_process(*SCORE, *options, cwd=place)
    assert (done.code, done.out) == (2, "")
    assert "holds an unfinished run with another" in one_line(done.err)
    assert sorted(path.name for path in (place / "scores.parquet.parts").iterdir()) == before


def test_two_runs_on_one_output(place: Path, here: Here) -> None:
    """The second one ends with 4, and the first one is not disturbed."""
    bundle = load_bundle(place / "bundle")
    source = open_input(place / "set")
    with open_parts(place / "scores.parquet", plan_of(bundle, bundle.manifest.variants[0], source)):
        done = in_process(*SCORE, cwd=place)
    assert done.code == 4
    assert "in use" in one_line(done.err)
    assert here.scored == []


@pytest.mark.usefixtures("here")
def test_photos_have_names_and_reasons(place: Path, digits: Dataset) -> None:
    """A folder of images: in the order of the names, a file that is no image is a row with a reason, and exit 1."""
    photos = place / "photos"
    photos.mkdir()
    for number in range(6):
        Image.fromarray(digits.test_images[number]).save(photos / f"{number}.png")
    (photos / "2.png").write_bytes((photos / "2.png").read_bytes()[:60])
    Image.new("L", (200, 200), 255).save(photos / "blank.jpg")
    (photos / "notes.txt").write_text("no image")
    done = in_process("score", photos, "--output", "scores.parquet", "--model", "bundle", "--json", cwd=place)
    assert done.code == 1, done.err
    assert "1 of 7 files are no image" in one_line(done.err)
    rows = pq.read_table(place / "scores.parquet").to_pylist()
    assert [row["image"] for row in rows] == ["0.png", "1.png", "2.png", "3.png", "4.png", "5.png", "blank.jpg"]
    assert (rows[2]["label"], rows[2]["readable"], rows[2]["accepted"]) == (None, False, False)
    assert "damaged" in rows[2]["reason"]
    assert (rows[6]["label"], rows[6]["readable"], rows[6]["accepted"]) == (None, True, False)
    assert rows[6]["reason"]
    assert (done.json["unreadable"], done.json["accuracy"]) == (1, None)
    again = in_process("predict", photos, "--model", "bundle", "--json", cwd=place).json["predictions"]
    assert [row["label"] for row in rows] == [None if one["label"] is None else int(one["label"]) for one in again]
    assert [row["accepted"] for row in rows] == [one["accepted"] for one in again]


@pytest.mark.usefixtures("here")
def test_what_predict_refuses_is_not_accepted(place: Path, digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image that resembles no digit of the bundle, however sure the model is."""
    monkeypatch.setattr("mnist_edge.runtime.acceptance.LARGEST_DISTANCE", 0.0)
    (place / "photos").mkdir()
    Image.fromarray(digits.test_images[0]).save(place / "photos" / "0.png")
    assert in_process("predict", "photos", "--model", "bundle", cwd=place).code == 1
    assert in_process("score", "photos", "--output", "s.parquet", "--model", "bundle", cwd=place).code == 0
    (row,) = pq.read_table(place / "s.parquet").to_pylist()
    assert (row["accepted"], "does not look like" in row["reason"]) == (False, True)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("kind", ["set", "photos"])
def test_outputs_that_are_no_numbers_are_no_scores(kind: str, place: Path, digits: Dataset) -> None:
    """NaN is not below any limit: every photo would be accepted."""
    import onnx

    model = onnx.load(place / "bundle" / "model.onnx")
    bias = next(tensor for tensor in model.graph.initializer if list(tensor.dims) == [10])
    bias.CopyFrom(onnx.numpy_helper.from_array(np.full(10, np.nan, np.float32), bias.name))
    folder = rewrite_bundle(place / "bundle", place / "broken", model=model.SerializeToString())
    (place / "photos").mkdir()
    Image.fromarray(digits.test_images[0]).save(place / "photos" / "0.png")
    done = in_process("score", kind, "--output", "s.parquet", "--model", folder, cwd=place)
    assert (done.code, "NaN or infinite" in one_line(done.err)) == (1, True)


@pytest.mark.slow
def test_an_error_of_a_worker_keeps_its_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check that failed on another machine is no damaged file."""
    ray = pytest.importorskip("ray")
    raised = CheckFailedError("NaN", hint="verify")

    def fails(_job: object, _block: object) -> bytes:
        raise raised

    monkeypatch.setattr(ray, "get", lambda job: job)
    monkeypatch.setattr(worker, "score_block", fails)
    row = worker.score_rows({"number": [3], "start": [0], "stop": [1]}, cast("Any", None))
    found = pickle.loads(row["error"][0])
    assert (type(found), found.message, found.hint) == (CheckFailedError, "NaN", "verify")


def test_a_flipped_bit_in_a_finished_block_is_scored_again(place: Path) -> None:
    """Wherever it is: a run cannot be stuck at a damaged block, nor return wrong labels."""
    bundle = load_bundle(place / "bundle")
    variant, source = bundle.manifest.variants[0], open_input(place / "set")
    made = plan_of(bundle, variant, source)
    blocks = blocks_of(made.images, made.block)
    job = ScoreJob(plan=made, source=source, model=bundle.file(variant).read_bytes())
    content = score_block(job, blocks[0])
    with open_parts(place / "s.parquet", made) as parts:
        parts.keep(0, content)
        expected = pq.read_table(parts.folder / "00000000.parquet")
        for position in range(4, len(content), 37):
            damaged = bytearray(content)
            damaged[position] ^= 4
            parts.keep(0, bytes(damaged))
            if parts.finished(blocks):
                assert pq.read_table(parts.folder / "00000000.parquet").equals(expected), position


def cut(folder: Path) -> None:
    write_set(folder, np.zeros((4, 28, 28), np.uint8), None)
    file = folder / TEST_FILES[0]
    file.write_bytes(file.read_bytes()[:-1])


def compressed(folder: Path) -> None:
    import gzip

    write_set(folder, np.zeros((4, 28, 28), np.uint8), None)
    file = folder / TEST_FILES[0]
    (folder / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
    file.unlink()


def short_labels(folder: Path) -> None:
    write_set(folder, np.zeros((4, 28, 28), np.uint8), np.zeros(3, np.uint8))


@pytest.mark.parametrize(
    ("make", "code", "said"),
    [
        (lambda _folder: None, 4, "does not exist"),
        (lambda folder: folder.mkdir(), 3, "neither an IDX file nor an image"),
        (lambda folder: folder.write_text("text"), 3, "no folder and no IDX file"),
        (cut, 3, "its header declares"),
        (compressed, 3, "gunzip --keep"),
        (short_labels, 3, "expected 4"),
    ],
    ids=["missing", "empty", "a file", "cut", "compressed", "labels"],
)
def test_a_bad_input_is_one_line(make: Callable[[Path], object], code: int, said: str, place: Path) -> None:
    """Before Ray is started, the line names the file and what to do."""
    make(place / "bad")
    done = in_process("score", "bad", "--output", "scores.parquet", "--model", "bundle", cwd=place)
    assert (done.code, done.out) == (code, "")
    assert said in one_line(done.err)
    assert not (place / "scores.parquet.parts").exists()


def test_an_input_that_shrinks_is_3(place: Path) -> None:
    """A file that is written while it is scored cannot give rows of other images."""
    bundle = load_bundle(place / "bundle")
    source = open_input(place / "set")
    job = ScoreJob(
        plan=plan_of(bundle, bundle.manifest.variants[0], source), source=source, model=bundle.file(bundle.manifest.variants[0]).read_bytes()
    )  # fmt: skip
    file = place / "set" / TEST_FILES[0]
    file.write_bytes(file.read_bytes()[:50_000])
    with pytest.raises(BadFileError, match="became shorter"):
        score_block(job, Block(number=7, start=350, stop=360))


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--output", "scores.csv"), 2, "ends in .parquet"),
        (("--output", "bundle/scores.parquet"), 2, "is a bundle"),
        (("--address", "nowhere"), 2, "expected HOST:PORT"),
        (("--address", "127.0.0.1:1"), 4, "no Ray cluster answers at 127.0.0.1:1"),
        (("--variant", "none"), 2, "has no variant 'none'"),
    ],
)
def test_wrong_options(options: tuple[str, ...], code: int, said: str, place: Path) -> None:
    """One line and the exit code of the fault, whatever the option."""
    done = in_process(*SCORE, *options, cwd=place)
    assert (done.code, done.out) == (code, "")
    assert said in one_line(done.err)


def test_without_the_extra(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The base install names the command that brings Ray."""
    monkeypatch.setattr("mnist_edge.workflow.score.find_spec", lambda name: None if name == "ray" else name)
    done = in_process(*SCORE, cwd=place)
    assert (done.code, done.out) == (4, "")
    assert "score needs ray" in one_line(done.err)
    assert "ray[data]" in done.err or "[score]" in done.err


def slow_set(folder: Path, digits: Dataset, images: int) -> Path:
    """A set that repeats the test set of the digits."""
    rows = np.resize(np.arange(len(digits.test_images)), images)
    return write_set(folder, digits.test_images[rows], digits.test_labels[rows])


def expected_labels(bundle: Path, digits: Dataset, images: int) -> list[int]:
    logits = open_classifier(load_bundle(bundle).file(load_bundle(bundle).manifest.variants[0])).logits(
        digits.test_images
    )
    return np.resize(logits.argmax(axis=1), images).tolist()


def start(place: Path, *options: str) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-m", "mnist_edge", *SCORE, *options],
        cwd=place, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def wait_for_parts(place: Path, least: int, seconds: float = 200) -> int:
    """Wait until so many blocks are finished; return how many there are."""
    for _ in range(int(seconds / 0.02)):
        found = len(list((place / "scores.parquet.parts").glob("0*.parquet")))
        if found >= least:
            return found
        time.sleep(0.02)
    raise AssertionError(f"fewer than {least} blocks after {seconds} s")


def started(start_node: Callable[[], Any]) -> Any:
    """Start a node of a cluster; Ray gives up after 30 seconds, which a busy machine may need."""
    for _ in range(3):
        with contextlib.suppress(Exception):
            return start_node()
    return start_node()


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_run_of_ray_is_continued(ending: signal.Signals, place: Path, digits: Dataset) -> None:
    """The real command on its own Ray: nothing printed but the result, finished blocks kept, the same bytes, nothing left."""
    shutil.rmtree(place / "set")
    slow_set(place / "set", digits, 1_500_000)  # 75 blocks of the real size
    process = start(place, "--workers", "2")
    kept = wait_for_parts(place, 5)
    process.send_signal(ending)
    _, said = process.communicate(timeout=100)
    assert process.returncode == {signal.SIGKILL: -9, signal.SIGTERM: 143}[ending], said
    assert not (place / "scores.parquet").exists()
    again = start(place, "--workers", "2", "--json")
    out, said = again.communicate(timeout=230)
    assert again.returncode == 0, said
    report = json.loads(out)
    assert kept * 20_000 <= report["resumed"] < 1_500_000
    assert said.splitlines() == [f"continuing: {report['resumed']:,} of 1,500,000 images are scored"]
    table = pq.read_table(place / "scores.parquet")
    assert table["image"].to_numpy().tolist() == list(range(1_500_000))
    assert table["label"].to_pylist() == expected_labels(place / "bundle", digits, 1_500_000)


@pytest.mark.slow
def test_a_lost_machine_loses_nothing(place: Path, digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a cluster of two nodes, one is killed in mid-run: its blocks are scored by the other, each image once."""
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "1")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    from ray.cluster_utils import Cluster

    shutil.rmtree(place / "set")
    slow_set(place / "set", digits, 1_000_000)
    cluster = Cluster()
    try:
        started(lambda: cluster.add_node(num_cpus=1, include_dashboard=False))
        second = started(lambda: cluster.add_node(num_cpus=1))
        cluster.wait_for_nodes()
        process = start(place, "--address", cluster.address, "--json")
        wait_for_parts(place, 4)
        cluster.remove_node(second, allow_graceful=False)
        out, said = process.communicate(timeout=230)
    finally:
        cluster.shutdown()
    assert process.returncode == 0, said
    assert json.loads(out)["workers"] == 2
    table = pq.read_table(place / "scores.parquet")
    assert table["image"].to_numpy().tolist() == list(range(1_000_000))
    assert table["label"].to_pylist() == expected_labels(place / "bundle", digits, 1_000_000)
