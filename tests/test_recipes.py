"""The recipes, their rates, and the loop that follows them, against the seed's own words."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mnist_edge.errors import BadFileError, CheckFailedError, UnavailableError, UsageError
from mnist_edge.ranks import Rank
from mnist_edge.records.data import Dataset
from mnist_edge.training.feed import Feed
from mnist_edge.training.loop import KEEP_LOSS_EVERY, Hooks, new_run, split, train
from mnist_edge.training.recipes import Recipe, find_recipe, learning_rate, settings_for

CPU = torch.device("cpu")


def some(digits: Dataset, count: int) -> Dataset:
    """The same dataset with only the first `count` pictures to train on."""
    return dataclasses.replace(
        digits, train_images=digits.train_images[:count], train_labels=digits.train_labels[:count]
    )


def test_the_recipe_seed_is_the_seeds() -> None:
    """Batch 64, rate 0.01, 100 epochs, plain SGD on every image, as the blog post has it."""
    recipe = dataclasses.asdict(find_recipe("seed"))
    assert recipe == {
        "name": "seed", "epochs": 100, "small_set_factor": 1, "batch_size": 64, "lr": 0.01, "momentum": 0.0,
        "weight_decay": 0.0, "schedule": "constant", "warmup": 0.0, "label_smoothing": 0.0, "shift": 0, "holdout": 0.0,
        "rotation": 0.0, "scaling": 0.0, "shear": 0.0, "elastic": 0.0, "undistorted": 0.0,
    }  # fmt: skip
    assert settings_for("seed", dataset="mnist", train_images=60_000).widths == (600, 400, 200, 100)
    assert settings_for("seed", dataset="digits", train_images=1437).recipe == find_recipe("seed")
    assert {learning_rate(find_recipe("seed"), step, 93_800) for step in range(0, 93_800, 77)} == {0.01}


def test_settings_replace_only_what_was_named() -> None:
    """Every option replaces its own setting, 0 included, and the rest stays the recipe's."""
    plain = settings_for("fast", dataset="mnist", train_images=60_000)
    assert plain.recipe == find_recipe("fast")
    named = {"epochs": 3, "lr": 0.0, "momentum": 0.0, "weight_decay": 0.0, "batch_size": 7}
    for key, value in named.items():
        changed = settings_for("fast", dataset="mnist", train_images=60_000, **{key: value})
        assert dataclasses.asdict(changed.recipe) == dataclasses.asdict(find_recipe("fast")) | {key: value}
    all_named = settings_for("fast", dataset="digits", train_images=60_000, widths=(5,), seed=9, **named)
    assert (all_named.dataset, all_named.widths, all_named.seed) == ("digits", (5,), 9)
    assert dataclasses.asdict(all_named.recipe) == dataclasses.asdict(find_recipe("fast")) | named


def test_a_small_set_is_passed_over_more_often() -> None:
    """Under 10,000 images the epochs are multiplied, unless the user named them."""
    recipe = find_recipe("fast")
    many = recipe.epochs * recipe.small_set_factor
    assert many > recipe.epochs
    for images, epochs in ((9999, many), (10_000, recipe.epochs)):
        assert settings_for("fast", dataset="digits", train_images=images).recipe.epochs == epochs
    assert settings_for("fast", dataset="digits", train_images=9999, epochs=4).recipe.epochs == 4


@given(st.integers(1, 600), st.floats(0, 1), st.floats(1e-6, 10))
def test_a_cycle_rises_and_falls_and_never_stands_still(steps: int, warmup: float, lr: float) -> None:
    """One cycle never exceeds the rate, is never 0, rises before its peak and falls after it."""
    recipe = dataclasses.replace(find_recipe("fast"), warmup=warmup, lr=lr)
    rates = [learning_rate(recipe, step, steps) for step in range(steps)]
    assert all(0 < rate <= lr for rate in rates)
    peak = rates.index(max(rates))
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)


def test_a_cycle_peaks_after_its_warmup_and_ends_near_nothing() -> None:
    """The rise is a straight line over `warmup` of the steps; half-way down a cosine the rate is half."""
    recipe = dataclasses.replace(find_recipe("fast"), warmup=0.2, lr=1.0)
    rates = [learning_rate(recipe, step, 999) for step in range(999)]
    assert rates[99] == pytest.approx(0.5)
    assert rates[199] == pytest.approx(1.0)
    assert rates[599] == pytest.approx(0.5)
    assert 0 < rates[998] < 1e-4


@pytest.mark.parametrize("holdout", [0.0, 0.05, 0.5])
def test_the_split_takes_every_image_once(digits: Dataset, holdout: float) -> None:
    """Images to train on and images to choose by are apart, and together they are all."""
    recipe = dataclasses.replace(find_recipe("fast"), holdout=holdout)
    chosen, held = split(digits, recipe)
    assert len(held) == round(1437 * holdout)
    assert sorted([*chosen.tolist(), *held.tolist()]) == list(range(1437))
    assert torch.equal(split(digits, recipe)[1], held)


def test_the_loop_is_the_seeds_loop(digits: Dataset) -> None:
    """Recipe seed gives the blog post's losses: mean over all batches, every 30th kept, last partial batch included."""
    data, epochs = some(digits, 500), 8
    settings = settings_for("seed", dataset="digits", train_images=500, epochs=epochs)
    run = new_run(settings)
    assert train(run, data, CPU, Hooks(save=lambda _checkpoint: None))

    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(784, 600), nn.ReLU(), nn.Linear(600, 400), nn.ReLU(), nn.Linear(400, 200), nn.ReLU(),
        nn.Linear(200, 100), nn.ReLU(), nn.Linear(100, 10),
    )  # fmt: skip
    criterion = nn.CrossEntropyLoss()
    x = data.train_images.astype("float32") / 255
    images = torch.from_numpy(((x - 0.5) / 0.5).reshape(500, 784))
    labels = torch.from_numpy(data.train_labels.astype("int64"))
    order_of = torch.Generator().manual_seed(0)
    means, losses1, idx = [], [], 0
    for _ in range(epochs):
        order = torch.randperm(500, generator=order_of)
        torch.randint(1, (2, 500), generator=order_of)  # the shifts that this recipe does not have
        train_loss, batches = 0.0, order.split(64)
        for rows in batches:
            loss = criterion(net(images[rows]), labels[rows])
            net.zero_grad()
            loss.backward()
            for param in net.parameters():
                param.data = param.data - 1e-2 * param.grad.data
            train_loss += loss.item()
            if idx % 30 == 0:
                losses1.append(loss.item())
            idx += 1
        means.append(train_loss / len(batches))
        assert len(batches[-1]) == 500 - 7 * 64

    history = run.progress.history
    assert [record.epoch for record in history] == list(range(1, epochs + 1))
    assert [record.loss for record in history] == pytest.approx(means, abs=1e-5)
    assert KEEP_LOSS_EVERY == 30
    assert [float(loss) for loss in run.curve] == pytest.approx(losses1, abs=1e-5)
    assert len(losses1) == 3
    assert means[-1] < means[0] - 0.005
    assert list(run.model.state_dict()) == list(net.state_dict())
    for ours, theirs in zip(run.model.state_dict().values(), net.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def train_for_epochs(data: Dataset, recipe: Recipe, widths: tuple[int, ...] = (24,), seed: int = 0):
    settings = settings_for("fast", dataset="digits", train_images=len(data.train_images), widths=widths, seed=seed)
    run = new_run(dataclasses.replace(settings, recipe=recipe))
    train(run, data, CPU, Hooks(save=lambda _checkpoint: None))
    return run


def test_held_out_images_are_never_learnt_from(digits: Dataset) -> None:
    """Changing the held-out pictures changes the accuracy told on them, and not one weight."""
    recipe = dataclasses.replace(find_recipe("fast"), epochs=2, holdout=0.2)
    images = digits.train_images.copy()
    images[split(digits, recipe)[1].numpy()] = 0
    real, changed = (
        train_for_epochs(data, recipe) for data in (digits, dataclasses.replace(digits, train_images=images))
    )
    for one, other in zip(real.model.state_dict().values(), changed.model.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert real.progress.history[-1].holdout_accuracy != changed.progress.history[-1].holdout_accuracy


def test_shifts_move_pictures_and_lose_none() -> None:
    """With shifts, a picture of one bright pixel in the middle arrives at every place around it, and only there."""
    images = np.zeros((600, 28, 28), dtype=np.uint8)
    images[:, 14, 14] = 255
    recipe = dataclasses.replace(find_recipe("fast"), shift=2, batch_size=64)
    feed = Feed(images, np.zeros(600, dtype=np.uint8), torch.arange(600), recipe, CPU, Rank())
    pixels = torch.cat([part for part, _ in feed.epoch(torch.Generator().manual_seed(0), from_step=0)])
    assert pixels.shape == (600, 784)
    assert (pixels == 1).sum(dim=1).tolist() == [1] * 600
    assert pixels.unique().tolist() == [-1, 1]
    places = {(int(place) // 28, int(place) % 28) for place in pixels.argmax(dim=1)}
    assert places == {(row, column) for row in range(12, 17) for column in range(12, 17)}


def test_the_seed_decides_everything(digits: Dataset) -> None:
    """The same seed gives the same weights bit for bit, another seed gives others."""
    recipe, data = dataclasses.replace(find_recipe("fast"), epochs=1), some(digits, 300)
    one, same, other = (train_for_epochs(data, recipe, seed=seed).model.state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not any(torch.equal(one[key], other[key]) for key in one)


def test_a_run_leaves_the_callers_random_numbers_alone() -> None:
    """Making first weights from a seed does not reset torch's own generator."""
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    new_run(settings_for("fast", dataset="digits", train_images=100, widths=(4,)))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(("lr", "batch_size"), [(1e6, 32), (1e6, 300), (1e40, 300)])
def test_diverged_weights_are_never_saved(digits: Dataset, lr: float, batch_size: int) -> None:
    """A rate far too high ends with an error, and no checkpoint with NaN or infinite weights is handed on before."""
    finite: list[bool] = []
    recipe = dataclasses.replace(find_recipe("seed"), lr=lr, batch_size=batch_size, epochs=6, momentum=0.9)
    run = new_run(dataclasses.replace(settings_for("seed", dataset="digits", train_images=300), recipe=recipe))
    hooks = Hooks(
        save=lambda checkpoint: finite.append(all(bool(v.isfinite().all()) for v in checkpoint.weights.values()))
    )
    with pytest.raises(CheckFailedError, match="diverged"):
        train(run, some(digits, 300), CPU, hooks)
    assert all(finite)


OWN = 'base = "fast"\nepochs = 3\nlr = 0.02\nshift = 2\n'


def test_a_recipe_of_ones_own_changes_what_it_names(tmp_path: Path) -> None:
    """A user's file starts from a recipe of the project; its name is the file's, and the options still come last."""
    path = tmp_path / "mine.toml"
    path.write_text(OWN)
    expected = dataclasses.replace(find_recipe("fast"), name="mine", epochs=3, small_set_factor=1, lr=0.02, shift=2)
    assert find_recipe(str(path)) == expected
    changed = settings_for(str(path), dataset="mnist", train_images=60_000, lr=0.5)
    assert changed.recipe == dataclasses.replace(expected, lr=0.5)


def test_a_recipe_without_a_base_names_every_setting(tmp_path: Path) -> None:
    """Nothing is guessed: what is missing is named."""
    path = tmp_path / "mine.toml"
    path.write_text("epochs = 3\n")
    with pytest.raises(BadFileError, match="small_set_factor"):
        find_recipe(str(path))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("learning_rate = 1", "learning_rate is not a setting"),
        ("lr = -1", "lr is -1"),
        ("lr = nan", "lr is nan"),
        ("epochs = 0", "epochs is 0"),
        ("epochs = 1.5", "epochs"),
        ('schedule = "cosine"', "schedule"),
        ("holdout = 1.0", "holdout is 1.0"),
        ("shift = [1]", "shift"),
        ("lr = ", "not TOML"),
        ("\udcff", "not TOML"),
    ],
)
def test_a_wrong_recipe_is_a_bad_file(line: str, told: str, tmp_path: Path) -> None:
    """The file and the setting are named before anything is trained."""
    path = tmp_path / "mine.toml"
    path.write_bytes(f"base = 'fast'\n{line}\n".encode("utf-8", "surrogateescape"))
    with pytest.raises(BadFileError, match=told) as caught:
        find_recipe(str(path))
    assert str(path) in caught.value.message


def test_a_recipe_that_is_not_there_is_told(tmp_path: Path) -> None:
    """A wrong name is wrong usage and lists the right ones; a missing file is not."""
    with pytest.raises(UsageError, match="no recipe quick") as caught:
        find_recipe("quick")
    assert "seed|fast|best" in caught.value.hint
    with pytest.raises(UnavailableError, match="does not exist"):
        find_recipe(str(tmp_path / "no.toml"))


@pytest.mark.parametrize(
    ("content", "reported"),
    [
        (b"x = " + b"[" * 30_000, "not TOML|nested"),
        (b"a." * 5000 + b"b = 1", "not TOML|nested|not a setting"),
        (b"base = 'mine.toml'\n", "base is 'mine.toml', expected seed, fast, best"),
        (b"base = ['fast']\n", "base is"),
        (b"lr = 1" + b"0" * 5000, "not TOML|lr"),
        (b"# " + b"x" * 70_000, "more than a recipe can have"),
        ("base = 'fast'\nlr = 0.02  # \xe4".encode("latin-1"), "not TOML"),
    ],
    ids=["brackets", "dots", "itself", "a list", "digits", "large", "latin-1"],
)
def test_an_absurd_recipe_is_a_bad_file(content: bytes, reported: str, tmp_path: Path) -> None:
    """Nested too deeply, its own base, endless numbers, another encoding: one error that names the file."""
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(BadFileError, match=reported) as caught:
        find_recipe(str(path))
    assert str(path) in caught.value.message


def test_a_recipe_is_utf8_in_every_locale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the locale's encoding is ASCII, a comment with an umlaut is still read."""
    path = tmp_path / "mine.toml"
    path.write_text("base = 'fast'  # für alle\n", encoding="utf-8")
    monkeypatch.setattr(
        Path, "read_text", lambda *_arguments, **_options: pytest.fail("reads in the locale's encoding")
    )
    assert find_recipe(str(path)).epochs == find_recipe("fast").epochs


def test_a_fifo_is_no_recipe(tmp_path: Path) -> None:
    """Refused at once instead of waiting for a writer."""
    path = tmp_path / "mine.toml"
    os.mkfifo(path)
    with pytest.raises(BadFileError, match="is a FIFO, not a recipe"):
        find_recipe(str(path))


def test_epochs_that_a_file_names_hold_for_a_small_set(tmp_path: Path) -> None:
    """The factor for small sets belongs to the project's own number of epochs, not to one that a user wrote down."""
    mine = tmp_path / "mine.toml"
    mine.write_text('base = "fast"\nepochs = 20\n')
    assert settings_for(str(mine), dataset="digits", train_images=1437).recipe.epochs == 20
    mine.write_text('base = "fast"\nrotation = 5.0\n')
    assert settings_for(str(mine), dataset="digits", train_images=1437).recipe.epochs == 100
