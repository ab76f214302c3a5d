"""Atomic replacement of files and folders, checks of paths before long work, SHA-256 hashes and folder locks."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import glob
import hashlib
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mnist_edge.errors import BadFileError, UnavailableError, UsageError


def sha256_bytes(data: bytes) -> str:
    """Return the sha256 of `data` in lower-case hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the sha256 of a file in lower-case hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def explaining_os_errors(path: Path) -> Iterator[None]:
    """Convert an OSError at `path` into an UnavailableError: one line and exit code 4."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        hint = {
            errno.ENOSPC: "free some space, or choose a folder on another disk",
            errno.EACCES: "choose a folder you may write to",
            errno.EPERM: "choose a folder you may write to",
            errno.EROFS: "choose a folder you may write to",
            errno.ENAMETOOLONG: "choose a shorter path",
        }.get(error.errno or 0, "choose another path")
        raise UnavailableError(f"{path}: {reason}", hint=hint) from error


def require_regular_file(path: Path, kind: str, *, limit: int | None = None, hint: str = "") -> int:
    """Check, before anything is read, that a path names a readable regular file of a plausible size.

    A FIFO would block for ever, and a device such as `/dev/zero` has no end.

    Args:
        path: what the user gave; symbolic links are followed.
        kind: what it should be, for the error: "a recipe", "a checkpoint".
        limit: the most bytes that a file of this kind can have.
        hint: what to do where the file is not one of its kind.

    Returns:
        The size in bytes.

    Raises:
        BadFileError: a folder, FIFO, socket or device; larger than `limit`.
        UnavailableError: it does not exist or may not be read.
    """
    try:
        status = path.stat()
        found = _FILE_TYPES.get(stat.S_IFMT(status.st_mode))
        if found is None and not os.access(path, os.R_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except FileNotFoundError as error:
        raise UnavailableError(f"{path} does not exist", hint="check the path") from error
    except OSError as error:
        raise UnavailableError(
            f"{path} cannot be read: {error.strerror or error}", hint="check its permissions"
        ) from error
    hint = hint or f"give {kind}"
    if found is not None:
        raise BadFileError(f"{path} is {found}, not {kind}", hint=hint)
    if limit is not None and status.st_size > limit:
        raise BadFileError(f"{path} has {status.st_size:,} bytes, more than {kind} can have ({limit:,})", hint=hint)
    return status.st_size


_FILE_TYPES = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
"""Kinds of paths that are no regular files."""


def ensure_folder(path: Path) -> Path:
    """Make a folder and check that it can be written to, before long work starts.

    Raises:
        UnavailableError: it cannot be made or written to.
        UsageError: there is a file of that name.
    """
    with explaining_os_errors(path):
        if path.exists() and not path.is_dir():
            raise UsageError(f"{path} is a file, not a folder", hint="choose another folder")
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    return path


def require_writable(path: Path) -> None:
    """Check, before long work starts, that a file of this name can be written later; nothing is left behind.

    Raises:
        UnavailableError: it is a folder, or would lie in a place that cannot be written to.
    """
    with explaining_os_errors(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with tempfile.TemporaryFile(dir=next(folder for folder in path.parents if folder.exists())):
            pass


def write_atomic(path: Path, data: bytes, previous: Path | None = None) -> None:
    """Write a file atomically: `path` holds the old bytes or the new ones, whatever happens.

    The bytes go to a temporary file in the same folder, are forced to disk and read back, and are then renamed
    to `path`. On any error the temporary file is removed.

    Args:
        path: the file to write or replace.
        data: its complete content.
        previous: a path in the same folder under which the old content is kept, if there is any.

    A device or a pipe is written to; behind a symbolic link, its target is replaced.

    Raises:
        UnavailableError: the disk is full, the folder is read-only, the bytes read back differ.
    """
    with explaining_os_errors(path):
        if path.is_symlink() and previous is None:
            path = path.resolve()  # the file behind a link is replaced, not the link
        if path.exists() and not path.is_file() and not path.is_dir():
            path.write_bytes(data)  # a device or a pipe: /dev/stdout must stay one
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".writing-", dir=path.parent)
        try:
            with open(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            _check_reads_back(Path(name), data)
            Path(name).chmod(0o666 & ~_umask())
            if previous is not None and path.exists():
                _keep(path, previous)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        sync(path.parent)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the path of a temporary file, which replaces `path` atomically once the block ends well.

    For a file that is too large for `write_atomic`. On any error the temporary file is removed. A device or a pipe is
    written to.

    Raises:
        UnavailableError: the disk is full, or the folder is read-only.
    """
    with explaining_os_errors(path):
        if path.exists() and not path.is_file() and not path.is_dir():
            yield path
            return
        path = path.resolve()  # the file behind a link is replaced, not the link
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".writing-", dir=path.parent)
        os.close(handle)
        try:
            yield Path(name)
            sync(Path(name))
            Path(name).chmod(0o666 & ~_umask())
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        sync(path.parent)


def _keep(path: Path, previous: Path) -> None:
    """Keep the content of a file as `previous` too, atomically; on any error no temporary file is left."""
    staged = previous.with_name(".writing-" + previous.name)
    try:
        staged.unlink(missing_ok=True)
        try:
            os.link(path, staged)
        except OSError:  # a file system without hard links
            shutil.copyfile(path, staged)
        os.replace(staged, previous)
    finally:
        staged.unlink(missing_ok=True)


def _check_reads_back(path: Path, data: bytes) -> None:
    if path.read_bytes() != data:
        raise OSError(errno.EIO, "the bytes read back differ from those written")


def _umask() -> int:
    current = os.umask(0o077)
    os.umask(current)
    return current


def sync(path: Path) -> None:
    """Force a file, or the entries of a folder, to disk, so that a rename survives a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def publish_folder(staged: Path, target: Path) -> None:
    """Replace the folder `target` with `staged` atomically, then remove the old one.

    Raises:
        UnavailableError: the operating system refuses; `target` is unchanged.
    """
    with explaining_os_errors(target):
        staged.chmod(0o777 & ~_umask())
        for path in [*staged.rglob("*"), staged]:
            sync(path)
        if not target.exists():
            os.rename(staged, target)
        elif _exchange(staged, target):
            shutil.rmtree(staged)
        else:
            # Without an exchange there is a moment without `target`; the old folder is then `target.previous`.
            previous = target.with_name(target.name + ".previous")
            shutil.rmtree(previous, ignore_errors=True)
            os.rename(target, previous)
            try:
                os.rename(staged, target)
            except BaseException:
                os.rename(previous, target)
                raise
            shutil.rmtree(previous)
        sync(target.parent)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two paths atomically (renameat2 with RENAME_EXCHANGE); return False where that is not supported."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        return False
    at_fdcwd, exchange = -100, 2
    if renameat2(at_fdcwd, os.fsencode(one), at_fdcwd, os.fsencode(other), exchange) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code))


def remove_leftovers(folder: Path, prefix: str = ".writing-") -> None:
    """Remove the temporary files and folders that a killed process left in `folder`.

    Call it only while holding the lock under which they are made: those of another process would be in use. What the
    operating system refuses to remove stays.
    """
    for path in folder.glob(f"{glob.escape(prefix)}*"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink()


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a folder for this process; the lock is on the folder itself, leaves no file, and ends with the process.

    Raises:
        UnavailableError: another process holds the folder.
    """
    with explaining_os_errors(folder):
        handle = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise UnavailableError(
                f"{folder} is in use by another mnist-edge",
                hint="wait for it to end, or choose another folder",
            ) from None
    try:
        yield
    finally:
        os.close(handle)
