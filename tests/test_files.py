"""Files and folders that are the old ones or the new ones, whatever fails, and locks that die with their process."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mnist_edge import files
from mnist_edge.errors import BadFileError, UnavailableError, UsageError
from mnist_edge.files import (
    ensure_folder,
    locked,
    publish_folder,
    remove_leftovers,
    require_regular_file,
    sha256_bytes,
    sha256_file,
    write_atomic,
)


def failing(code: int):
    """A system call that refuses."""

    def call(*_arguments, **_options):
        raise OSError(code, os.strerror(code))

    return call


@contextlib.contextmanager
def file_size_limit(size: int):
    """A real write limit on this process."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_hashes_are_sha256(tmp_path: Path) -> None:
    """Bytes and files hash as hashlib says, long files too."""
    data = bytes(range(256)) * 5000
    (tmp_path / "file").write_bytes(data)
    assert sha256_file(tmp_path / "file") == sha256_bytes(data) == hashlib.sha256(data).hexdigest()


def test_a_write_makes_its_folder_and_replaces(tmp_path: Path) -> None:
    """The new bytes take the place of the old ones and nothing else is left."""
    target = tmp_path / "a folder" / "ü\nfile"
    for data in (b"old", b"", b"new" * 100_000):
        write_atomic(target, data)
        assert contents(target.parent) == {target.name: data}


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_a_written_file_has_the_usual_permissions(tmp_path: Path, umask: int) -> None:
    """The file is as open as the user's umask says, like any other file."""
    before = os.umask(umask)
    try:
        write_atomic(tmp_path / "file", b"x")
        (tmp_path / "plain").write_bytes(b"x")
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("call", ["os.fsync", "os.replace", "tempfile.mkstemp"])
def test_a_failed_write_leaves_the_old_bytes_and_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    """Whatever the system refuses before the name is taken, the folder is as it was and the reason is told."""
    target = tmp_path / "file"
    write_atomic(target, b"old")
    with monkeypatch.context() as patch:
        patch.setattr(f"mnist_edge.files.{call}", failing(code))
        with pytest.raises(UnavailableError, match=os.strerror(code)) as caught:
            write_atomic(target, b"new")
    assert caught.value.hint
    assert contents(tmp_path) == {"file": b"old"}


def test_a_full_disk_leaves_the_old_bytes(tmp_path: Path) -> None:
    """A real write limit in the middle of the data ends with one line, the old file and no other."""
    target = tmp_path / "file"
    write_atomic(target, b"old")
    with file_size_limit(100_000), pytest.raises(UnavailableError, match="file"):
        write_atomic(target, b"n" * 300_000)
    assert contents(tmp_path) == {"file": b"old"}


def test_what_does_not_read_back_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that returns other bytes than were written is noticed before the old file is given up."""
    target = tmp_path / "file"
    write_atomic(target, b"old")
    fsync = os.fsync

    def spoil(handle: int) -> None:
        fsync(handle)
        os.pwrite(handle, b"X", 1)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", spoil)
        with pytest.raises(UnavailableError, match="read back"):
            write_atomic(target, b"new")
    assert contents(tmp_path) == {"file": b"old"}


def test_a_stop_in_the_middle_of_a_write_leaves_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception that is no OSError, such as a signal, also cleans up."""

    def interrupt(_handle: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "file", b"new")
    assert not contents(tmp_path)


def test_a_folder_that_cannot_be_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of that name is wrong usage; a path below a file, a read-only place or a name too long is not."""
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        ensure_folder(tmp_path / "file")
    with pytest.raises(UnavailableError):
        ensure_folder(tmp_path / "file" / "below")
    with monkeypatch.context() as patch:
        patch.setattr(files.tempfile, "TemporaryFile", failing(errno.EROFS))
        with pytest.raises(UnavailableError, match="Read-only") as caught:
            ensure_folder(tmp_path / "made")
    assert "may write" in caught.value.hint


def test_a_name_too_long_is_refused_in_one_line(tmp_path: Path) -> None:
    """A folder whose name the file system cannot hold is the surroundings' fault."""
    with pytest.raises(UnavailableError, match="too long"):
        ensure_folder(tmp_path / ("x" * 300))


def test_a_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    """Proving that a folder can be written to leaves nothing in it."""
    made = ensure_folder(tmp_path / "a" / "b")
    assert made.is_dir()
    assert ensure_folder(made) == made
    assert not list(made.iterdir())


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """A folder with a published `target` and a `staged` one."""
    for name, data in (("target", b"old"), ("staged", b"new")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(data)
    (tmp_path / "target" / "only-old").write_bytes(b"old")
    return tmp_path


NEW, OLD = {"target/file": b"new"}, {"target/file": b"old", "target/only-old": b"old"}


@pytest.mark.parametrize("exchange", [True, False])
def test_a_published_folder_replaces_the_old_one_whole(
    shelf: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    """No file of the old folder stays among the new ones, with and without the system's exchange."""
    if not exchange:
        monkeypatch.setattr(files, "_exchange", lambda _one, _other: False)
    publish_folder(shelf / "staged", shelf / "target")
    assert contents(shelf) == NEW
    assert [path.name for path in shelf.iterdir()] == ["target"]


def test_a_first_folder_is_published(shelf: Path) -> None:
    """With no old folder, the staged one takes the name and the usual permissions."""
    (shelf / "staged").chmod(0o700)
    publish_folder(shelf / "staged", shelf / "first")
    assert (shelf / "first" / "file").read_bytes() == b"new"
    (shelf / "plain").mkdir()
    assert (shelf / "first").stat().st_mode == (shelf / "plain").stat().st_mode


@pytest.mark.parametrize("call", ["os.fsync", "_exchange"])
def test_a_failed_publication_leaves_the_old_folder(shelf: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """If the system refuses, the published folder is as it was."""
    monkeypatch.setattr(f"mnist_edge.files.{call}", failing(errno.ENOSPC))
    with pytest.raises(UnavailableError, match="No space"):
        publish_folder(shelf / "staged", shelf / "target")
    assert {name: data for name, data in contents(shelf).items() if name.startswith("target/")} == OLD


@pytest.mark.parametrize("failing_rename", [1, 2])
def test_a_failed_publication_without_exchange_leaves_the_old_folder(
    shelf: Path, monkeypatch: pytest.MonkeyPatch, failing_rename: int
) -> None:
    """Also where two renames are needed, the published folder is as it was when either of them fails."""
    rename, calls = os.rename, []

    def one_fails(*arguments) -> None:
        calls.append(arguments)
        if len(calls) == failing_rename:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        rename(*arguments)

    monkeypatch.setattr(files, "_exchange", lambda _one, _other: False)
    monkeypatch.setattr(files.os, "rename", one_fails)
    with pytest.raises(UnavailableError):
        publish_folder(shelf / "staged", shelf / "target")
    assert {name: data for name, data in contents(shelf).items() if name.startswith("target/")} == OLD


def test_a_folder_is_held_by_one(tmp_path: Path) -> None:
    """A second holder is refused and told so; afterwards the folder is free, and no file tells of the lock."""
    with locked(tmp_path):
        with pytest.raises(UnavailableError, match="in use"), locked(tmp_path):
            pass
        assert not list(tmp_path.iterdir())
    with pytest.raises(ZeroDivisionError), locked(tmp_path):
        _ = 1 / 0
    with locked(tmp_path):
        pass


def test_a_lock_dies_with_its_process(tmp_path: Path) -> None:
    """A folder held by another process is refused, and free again as soon as that process is killed."""
    code = "import sys; from pathlib import Path; from mnist_edge.files import locked\nwith locked(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UnavailableError, match="in use"), locked(tmp_path):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with locked(tmp_path):
            pass


def test_a_lock_on_nothing_is_refused(tmp_path: Path) -> None:
    """A folder that is not there cannot be held."""
    with pytest.raises(UnavailableError), locked(tmp_path / "nowhere"):
        pass


def test_only_a_regular_file_is_read(tmp_path: Path) -> None:
    """A FIFO or an endless device is refused before it is opened; a link counts as what it leads to."""
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("file")
    assert (
        require_regular_file(tmp_path / "file", "a recipe") == require_regular_file(tmp_path / "link", "a recipe") == 5
    )
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name, found in {"fifo": "a FIFO", "zero": "a device", ".": "a folder"}.items():
        with pytest.raises(BadFileError, match=f"is {found}, not a recipe"):
            require_regular_file(tmp_path / name, "a recipe")


def test_a_file_too_large_for_its_kind_is_refused(tmp_path: Path) -> None:
    """A sparse file of a terabyte is refused by its size; one byte less than the limit is not."""
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1_000_000)
    require_regular_file(tmp_path / "sparse", "a recipe", limit=1_000_000)
    with pytest.raises(BadFileError, match=r"has 1,000,000 bytes, more than a recipe can have \(999,999\)"):
        require_regular_file(tmp_path / "sparse", "a recipe", limit=999_999)


def test_a_missing_or_unreadable_file_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No such file, a path below a file, no permission: exit code 4, the file is not said to be bad."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UnavailableError, match="does not exist"):
        require_regular_file(tmp_path / "none", "a recipe")
    with pytest.raises(UnavailableError, match="Not a directory"):
        require_regular_file(tmp_path / "file" / "below", "a recipe")
    monkeypatch.setattr(files.os, "access", lambda _path, _mode: False)  # root may read everything
    with pytest.raises(UnavailableError, match="Permission denied"):
        require_regular_file(tmp_path / "file", "a recipe")


@pytest.mark.parametrize("action", ["write", "publish"])
def test_a_new_name_is_forced_to_disk(shelf: Path, monkeypatch: pytest.MonkeyPatch, action: str) -> None:
    """After the rename the folder itself is synced: else a power cut could bring the old name back."""
    calls: list[str] = []
    fsync, replace, exchange = os.fsync, os.replace, files._exchange

    def record(handle: int) -> None:
        calls.append("sync " + os.path.realpath(f"/proc/self/fd/{handle}"))
        fsync(handle)

    monkeypatch.setattr(files.os, "fsync", record)
    monkeypatch.setattr(files.os, "replace", lambda *paths: (calls.append("rename"), replace(*paths)))
    monkeypatch.setattr(files, "_exchange", lambda *paths: (calls.append("rename"), exchange(*paths))[1])
    if action == "write":
        write_atomic(shelf / "file", b"new")
    else:
        publish_folder(shelf / "staged", shelf / "target")
    assert calls[-2:] == ["rename", f"sync {shelf}"]


def test_leftovers_are_removed_and_nothing_else(tmp_path: Path) -> None:
    """Files and folders that begin with the prefix go, links without what they lead to; all others stay."""
    (tmp_path / ".writing-folder" / "deep").mkdir(parents=True)
    (tmp_path / ".writing-file").write_bytes(b"x")
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / ".writing-below").write_bytes(b"x")
    (tmp_path / ".writing-link").symlink_to("kept", target_is_directory=True)
    (tmp_path / ".exporting-other").write_bytes(b"x")
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == [".exporting-other", ".writing-below", "kept"]
    remove_leftovers(tmp_path, ".exporting-")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept"]


def test_a_pipe_is_written_to_and_stays_one(tmp_path: Path) -> None:
    """`--output /dev/stdout` gives the result to whoever reads it; no device or pipe is replaced by a file."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_atomic(pipe, b"result")
        assert os.read(reader, 100) == b"result"
    finally:
        os.close(reader)
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]


def test_behind_a_link_its_target_is_replaced(tmp_path: Path) -> None:
    """A user's link stays a link, also to another folder."""
    target, link = tmp_path / "elsewhere" / "target", tmp_path / "link"
    target.parent.mkdir()
    target.write_bytes(b"old")
    link.symlink_to(target)
    write_atomic(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
