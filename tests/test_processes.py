"""Training on two processes of this machine, over loopback, with gloo."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import mnist_edge
from hypothesis import given, settings
from hypothesis import strategies as st

from mnist_edge.pixels import ImageFile
from mnist_edge.ranks import Rank, this_rank
from mnist_edge.records.data import Dataset
from mnist_edge.training.checkpoint import LAST, load_checkpoint, save_checkpoint
from mnist_edge.training.feed import Feed
from mnist_edge.training.loop import Hooks, Run, new_run, train
from mnist_edge.training.recipes import find_recipe, settings_for
from mnist_edge.training.stream import Stream, chunks_of

pytestmark = [pytest.mark.xdist_group("processes"), pytest.mark.timeout(400)]

SETTINGS = ("--dataset", "digits", "--widths", "16,12", "--batch-size", "50", "--seed", "3")
"""1,365 images are trained on: the last batch has 15, which two processes cannot share evenly."""
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


def csv_of(path: Path) -> list[list[float]]:
    return [[float(cell or "nan") for cell in row] for row in list(csv.reader(path.read_text().splitlines()))[1:]]


def fresh(epochs: int) -> Run:
    return new_run(
        settings_for("fast", dataset="digits", train_images=1437, widths=(16, 12), seed=3, epochs=epochs, batch_size=50)
    )


def one_process(digits: Dataset, epochs: int) -> list[float]:
    """Mean losses of the epochs of the same run on one process."""
    run = fresh(epochs)
    assert train(run, digits, torch.device("cpu"), Hooks(save=lambda _checkpoint: None))
    return [record.loss for record in run.progress.history]


def losses_in(folder: Path) -> list[float]:
    """Mean losses of the epochs in a run folder; every epoch is there once, in order."""
    rows = csv_of(folder / "history.csv")
    assert [row[0] for row in rows] == list(range(1, len(rows) + 1))
    return [row[1] for row in rows]


@pytest.mark.slow
def test_two_processes_go_on_with_what_one_began(tmp_path: Path, digits: Dataset) -> None:
    """Stopped in mid-epoch and resumed on two, the losses are those of one; one document, one set of lines."""
    steps = []
    begun = fresh(4)
    hooks = Hooks(
        save=lambda state: save_checkpoint(tmp_path, state),
        on_step=lambda done, _all: steps.append(done),
        stop=lambda: len(steps) == 40,
    )
    assert not train(begun, digits, torch.device("cpu"), hooks)
    done = mnist_edge("train", "--resume", ".", "--processes", "2", "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    assert done.json["epochs"] == 4  # a second document would not parse
    assert done.err.count("epoch   2 of 4") == 1
    assert losses_in(tmp_path) == pytest.approx(one_process(digits, 4), rel=1e-4)
    assert load_checkpoint(tmp_path / LAST).weights.keys() == begun.model.state_dict().keys()


def started(tmp_path: Path, *command: str) -> subprocess.Popen[bytes]:
    """A process whose lines go to `out` and `err` in the folder."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MNIST_EDGE")}
    with (tmp_path / "out").open("w") as out, (tmp_path / "err").open("w") as err:
        return subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=out, stderr=err)


def process_of_rank(number: int, parent: int, patience: float = 120) -> int:
    """Return the process id of a rank below `parent`, read from its environment."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        children = subprocess.run(["pgrep", "-P", str(parent)], capture_output=True, text=True, check=False).stdout
        for child in children.split():
            try:
                environment = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if f"RANK={number}".encode() in environment:
                return int(child)
        time.sleep(0.2)
    raise AssertionError(f"no rank {number}")


LISTEN = "0A"
"""State of a listening socket in /proc/net/tcp."""


def listening(parent: int) -> set[str]:
    """Local addresses, in hexadecimal, on which a process or a descendant listens."""
    inodes, family = set(), [parent]
    for process in family:
        found = subprocess.run(["pgrep", "-P", str(process)], capture_output=True, text=True, check=False).stdout
        family += map(int, found.split())
        for handle in Path(f"/proc/{process}/fd").glob("*"):
            try:
                inodes.add(os.readlink(handle))
            except OSError:
                continue
    addresses = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTEN and f"socket:[{fields[9]}]" in inodes:
                addresses.add(fields[1].partition(":")[0])
    return addresses


LOOPBACK = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}
"""127.0.0.1, ::1 and ::ffff:127.0.0.1 as /proc/net/tcp spells them."""


@pytest.mark.slow
def test_only_this_machine_can_reach_the_processes(tmp_path: Path) -> None:
    """While two processes train, every listening socket of theirs is bound to loopback; SIGHUP ends both with 129."""
    run = started(
        tmp_path, sys.executable, "-m", "mnist_edge", "train", *SETTINGS, "--epochs", "10000", "--processes", "2", "--run", "r"
    )  # fmt: skip
    try:
        wait_for_epochs(tmp_path / "r", 1)
        ranks = [process_of_rank(number, run.pid) for number in range(2)]
        found = listening(run.pid)
        assert found  # gloo's own
        assert found <= LOOPBACK
        run.send_signal(signal.SIGHUP)
        assert run.wait(timeout=150) == 129, (tmp_path / "err").read_text()
    finally:
        run.kill()
    assert not any(Path(f"/proc/{rank}").exists() for rank in ranks)
    assert load_checkpoint(tmp_path / "r" / LAST).progress.epoch >= 1
    assert "Traceback" not in (tmp_path / "err").read_text()


def wait_for_epochs(folder: Path, count: int, patience: float = 150) -> None:
    """Wait until so many epochs are in a run's history."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        if (folder / "history.csv").exists() and len(csv_of(folder / "history.csv")) >= count:
            return
        time.sleep(0.1)
    raise AssertionError(f"{folder} did not come to {count} epochs")


@pytest.mark.slow
def test_a_killed_rank_ends_the_run_with_one_line(tmp_path: Path) -> None:
    """Exit code 4, a line that names the rank, no traceback, no process left, a checkpoint that loads."""
    run = started(
        tmp_path, sys.executable, "-m", "mnist_edge", "train", *SETTINGS, "--epochs", "100000", "--processes", "2", "--run", "r", "--json"
    )  # fmt: skip
    wait_for_epochs(tmp_path / "r", 2)
    leader, other = process_of_rank(0, run.pid), process_of_rank(1, run.pid)
    os.kill(other, signal.SIGKILL)
    assert run.wait(timeout=150) == 4
    error = (tmp_path / "err").read_text()
    assert "rank 1 of 2 was killed (SIGKILL)" in error
    assert "Traceback" not in error
    assert json.loads((tmp_path / "out").read_text())["error"]["kind"] == "environment"  # one document
    assert not Path(f"/proc/{leader}").exists()
    assert load_checkpoint(tmp_path / "r" / LAST).progress.epoch >= 2


@pytest.mark.slow
def test_one_process_goes_on_with_what_two_began(tmp_path: Path, digits: Dataset) -> None:
    """SIGTERM ends both after the same step with 143; the losses of the resumed run are one process's."""
    run = started(
        tmp_path, sys.executable, "-m", "mnist_edge", "train", *SETTINGS, "--epochs", "120", "--processes", "2", "--run", "r", "--json"
    )  # fmt: skip
    wait_for_epochs(tmp_path / "r", 1)
    run.send_signal(signal.SIGTERM)
    assert run.wait(timeout=150) == 143
    assert "Traceback" not in (tmp_path / "err").read_text()
    assert json.loads((tmp_path / "out").read_text())["error"]["kind"] == "stopped"  # one document
    assert load_checkpoint(tmp_path / "r" / LAST).progress.epoch < 120
    assert mnist_edge("train", "--resume", "r", cwd=tmp_path).code == 0
    losses = losses_in(tmp_path / "r")
    assert len(losses) == 120
    assert losses[:10] == pytest.approx(one_process(digits, 120)[:10], rel=1e-3)


@pytest.mark.slow
def test_torchrun_starts_a_lost_process_anew(tmp_path: Path, digits: Dataset) -> None:
    """With --max-restarts a killed rank costs an epoch at most: each is in the history once, with its loss."""
    run = started(
        tmp_path, *TORCHRUN, "--max-restarts=1", "-m", "--", "mnist_edge", "train", *SETTINGS, "--epochs", "120", "--run", "r"
    )  # fmt: skip
    wait_for_epochs(tmp_path / "r", 2)
    os.kill(process_of_rank(1, run.pid), signal.SIGKILL)
    code = run.wait(timeout=150)
    error = (tmp_path / "err").read_text()
    assert code == 0, error
    assert "resuming" in error
    losses = losses_in(tmp_path / "r")
    assert len(losses) == 120
    assert losses[:10] == pytest.approx(one_process(digits, 120)[:10], rel=1e-3)


@pytest.mark.slow
def test_processes_that_would_do_different_work_refuse(tmp_path: Path) -> None:
    """Ranks whose checkpoints or data differ end with 4 and the name of what differs, before any step."""
    work = (
        "import os, sys; from mnist_edge.cli.entry import main; "
        "sys.argv = 'mnist-edge train --dataset digits --epochs 1 --widths 8 --run r --seed'.split() + [os.environ['RANK']]; "
        "main()"
    )
    ranks = []
    for number in range(2):
        environment = {key: value for key, value in os.environ.items() if not key.startswith("MNIST_EDGE")}
        environment |= {
            "TORCHELASTIC_RUN_ID": "x", "RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()),
        }  # fmt: skip
        ranks.append(environment)
    ranks[1]["MASTER_PORT"] = ranks[0]["MASTER_PORT"]
    runs = [
        subprocess.Popen([sys.executable, "-c", work], cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True)
        for env in ranks
    ]
    for number, run in enumerate(runs):
        _, error = run.communicate(timeout=200)
        assert run.returncode == 4
        assert f"rank {number}: the processes differ in settings" in error
    assert not list(tmp_path.glob("r/*.safetensors"))


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@settings(deadline=None, max_examples=30)
@given(
    count=st.integers(1, 40),
    batch=st.integers(1, 12),
    size=st.integers(1, 5),
    skipped=st.integers(0, 3),
    deforms=st.booleans(),
)
def test_the_shares_of_a_batch_are_the_batch(count: int, batch: int, size: int, skipped: int, deforms: bool) -> None:
    """However many ranks: in each step they hold, together, the very images of one process's batch, each once."""
    recipe = dataclasses.replace(find_recipe("fast"), batch_size=batch, shift=1, rotation=5.0 if deforms else 0.0)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
    labels = random.integers(0, 10, count, dtype=np.uint8)

    def steps(rank: Rank) -> list[tuple[torch.Tensor, torch.Tensor]]:
        feed = Feed(images, labels, torch.arange(count), recipe, torch.device("cpu"), rank)
        return list(feed.epoch(torch.Generator().manual_seed(7), from_step=min(skipped, (count - 1) // batch)))

    whole = steps(Rank())
    shares = [steps(Rank(number=number, local=number, size=size)) for number in range(size)]
    for step, (pixels, targets) in enumerate(whole):
        found = [share[step] for share in shares]
        assert sum(len(part) for part, _ in found) == len(pixels)
        for number, (part, wanted) in enumerate(found):
            torch.testing.assert_close(part, pixels[number::size], rtol=1e-5, atol=1e-5)
            assert torch.equal(wanted, targets[number::size])


def test_the_shares_of_a_stream_are_its_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read from a file in several windows, the ranks hold the batches of one process, too."""
    monkeypatch.setattr("mnist_edge.training.stream.WINDOW", 40)
    recipe = dataclasses.replace(find_recipe("fast"), batch_size=10)
    random = np.random.default_rng(0)
    labels = random.integers(0, 10, 137, dtype=np.uint8)
    path = tmp_path / "images"
    path.write_bytes(bytes(16) + random.integers(0, 256, (137, 28, 28), dtype=np.uint8).tobytes())
    images = ImageFile(path, np.array([[0, 137]]))

    def steps(rank: Rank) -> list[torch.Tensor]:
        stream = Stream(images, labels, chunks_of(137), recipe, torch.device("cpu"), rank)
        return [pixels for pixels, _ in stream.epoch(torch.Generator().manual_seed(1), from_step=3)]

    shares = [steps(Rank(number=number, size=3)) for number in range(3)]
    for step, pixels in enumerate(steps(Rank())):
        for number, share in enumerate(shares):
            assert torch.equal(share[step], pixels[number::3])


def test_an_option_against_torchrun_is_refused(tmp_path: Path) -> None:
    """--processes 4 among torchrun's two would start four more each."""
    torchrun = {"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}
    done = mnist_edge("train", *SETTINGS, "--processes", "4", cwd=tmp_path, **torchrun)
    assert done.code == 2
    assert "--processes 4, but torchrun started 2" in done.err


def test_outside_torchrun_a_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another tool's RANK in the environment makes no follower of us."""
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setenv("RANK", "3")
    assert this_rank() == Rank()
    for name in ("LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.setenv(name, "4")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    assert this_rank().number == 3
    assert not this_rank().leads
