"""Where a study is stored: an SQLite file in its folder for one machine, or a PostgreSQL database for many.

Both are Optuna's storage with its heartbeats: a running trial whose worker has not recorded one for GRACE_SECONDS, by
the clock of the database, is stale.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.storages import RDBStorage

from mnist_edge.errors import BadFileError, MnistEdgeError, UnavailableError, UsageError
from mnist_edge.extras import install_hint
from mnist_edge.files import ensure_folder, explaining_os_errors, require_regular_file

FILE = "study.db"
LOCK = "lock"
OLD_JOURNAL = "journal.log"
HEARTBEAT_SECONDS = 10
GRACE_SECONDS = 60
"""Six heartbeats: longer than anything that a training does between two steps."""
_NEW_STUDY = "start another sweep with --study FOLDER, or remove this one"
_CONTINUE = "the same command then continues the sweep"
_ADVISORY_LOCK = 0x6D6E697374
_CONNECTION = {"connect_timeout": "10", "keepalives_idle": "30", "tcp_user_timeout": "60000"}
_SESSION = "-c idle_in_transaction_session_timeout=60s"
"""A worker that vanished while it held the lock is disconnected."""
_HINTS = {
    "does not exist": f"create it (createdb, createuser); {_CONTINUE}",
    "password": f"give the password in ~/.pgpass or $PGPASSWORD; {_CONTINUE}",
    "permission denied": "let its owner run: GRANT CREATE ON SCHEMA public TO NAME; or use your own database",
}


class Storage:
    """A study's place, opened by one worker; made by `open_storage`.

    Attributes:
        described: names it for the user, without user and password.
        study_name: of the study in it.
        alone: whether no other worker was running when this one began; False where that is not known.
        optuna: Optuna's view of it.
    """

    def __init__(
        self, described: str, study_name: str, pool: sqlalchemy.Pool, lock: int | None, *, alone: bool
    ) -> None:
        self.described = described
        self.study_name = study_name
        self.alone = alone
        self._lock = lock
        url = "postgresql+psycopg://" if lock is None else "sqlite://"
        self._engine = sqlalchemy.create_engine(url, pool=pool)
        with self.exclusive(), warnings.catch_warnings():  # two workers must not create the tables at once
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self.optuna = RDBStorage(
                url, {"pool": pool}, heartbeat_interval=HEARTBEAT_SECONDS, grace_period=GRACE_SECONDS
            )

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Wait until no other worker is in such a block; the lock ends with its process. Errors are explained."""
        with self.explaining(), ExitStack() as stack:
            if self._lock is None:
                connection = stack.enter_context(self._engine.begin())
                connection.execute(sqlalchemy.select(sqlalchemy.func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
            else:
                fcntl.flock(self._lock, fcntl.LOCK_EX)
                stack.callback(fcntl.flock, self._lock, fcntl.LOCK_UN)
            yield

    @contextmanager
    def explaining(self) -> Iterator[None]:
        """Report a failure of the storage in one line, and anything else that Optuna finds unexpected as damage."""
        try:
            yield
        except (OSError, MemoryError, MnistEdgeError):
            raise
        except Exception as error:  # damaged content can make Optuna fail in any way
            raise self._explained(error) from error

    def damaged(self, why: object) -> BadFileError:
        """Return the error for content that no sweep has written."""
        return BadFileError(f"{self.described} is damaged: {' '.join(str(why).split())}", hint=_NEW_STUDY)

    def _explained(self, error: BaseException) -> MnistEdgeError:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, sqlalchemy.exc.DBAPIError):
            cause = cause.__cause__ or cause.__context__
        if cause is None or cause.orig is None:
            try:  # where a server stops within a transaction, SQLAlchemy may say no more than that it cannot go on
                self._engine.connect().close()
            except sqlalchemy.exc.DBAPIError as lost:
                return self._explained(lost)
            return self.damaged(f"{type(error).__name__}: {error}")
        reason = " ".join(str(cause.orig).split())
        if isinstance(cause.orig, sqlite3.Error):
            if getattr(cause.orig, "sqlite_errorname", "SQLITE_ERROR").startswith(_ENVIRONMENT):
                return UnavailableError(f"{self.described}: {reason}", hint=f"check the disk; {_CONTINUE}")
            return self.damaged(reason)
        state = getattr(cause.orig, "sqlstate", None) or ""
        if state[:2] in {"22", "23", "42"} and state != "42501":  # data, constraints, tables; not permissions
            return self.damaged(reason)
        start = f"start the server and check the address; finished trials are kept, and {_CONTINUE}"
        hint = next((hint for text, hint in _HINTS.items() if text in reason), start)
        return UnavailableError(f"{self.described}: {reason}", hint=hint)


_ENVIRONMENT = tuple(
    f"SQLITE_{name}" for name in ("FULL", "READONLY", "CANTOPEN", "IOERR", "BUSY", "PERM", "NOMEM", "PROTOCOL", "NOLFS")
)


@contextmanager
def open_storage(folder: Path, url: str | None) -> Iterator[Storage]:
    """Open the storage of a study for the duration of the block.

    Args:
        folder: of the study. A database holds any number of studies, each under the name of its folder.
        url: `postgresql://USER@HOST/DATABASE`; None for a file in the folder.

    Raises:
        UsageError: another kind of URL.
        BadFileError: the file is damaged, or of an earlier version.
        UnavailableError: the database or its driver is not available, or the folder cannot be written to.
    """
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    with ExitStack() as stack, explaining_os_errors(folder):
        yield _file(folder, stack) if url is None else _database(folder, url, stack)


def _file(folder: Path, stack: ExitStack) -> Storage:
    path = ensure_folder(folder) / FILE
    if (folder / OLD_JOURNAL).exists() and not path.exists():
        raise BadFileError(f"{folder} holds a sweep of an earlier version ({OLD_JOURNAL})", hint=_NEW_STUDY)
    if path.exists():
        require_regular_file(path, "a study", hint=_NEW_STUDY)
    lock, worker = (
        os.open(name, flags, 0o666) for name, flags in ((folder / LOCK, os.O_RDWR | os.O_CREAT), (folder, 0))
    )
    stack.callback(os.close, lock)
    stack.callback(os.close, worker)
    # Each worker shares a lock on the folder as long as it lives. Who gets it alone has no other beside it.
    try:
        fcntl.flock(worker, fcntl.LOCK_EX | fcntl.LOCK_NB)
        alone = True
    except BlockingIOError:
        alone = False
    fcntl.flock(worker, fcntl.LOCK_SH)

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(os.path.abspath(path), timeout=60, check_same_thread=False)

    return Storage(str(path), "sweep", _pool(connect, stack), lock, alone=alone)


def _database(folder: Path, url: str, stack: ExitStack) -> Storage:
    if not url.startswith(("postgresql://", "postgres://")):
        raise UsageError("--storage is no postgresql:// URL", hint="--storage postgresql://USER@HOST/DATABASE")
    try:
        import psycopg
    except ImportError as error:
        raise UnavailableError("psycopg is not installed", hint=install_hint("postgresql")) from error
    # An error names no part of a URL that may be a part of the password.
    wrong = UsageError(
        "--storage is no valid postgresql:// URL",
        hint="postgresql://USER@HOST/DATABASE; the password in ~/.pgpass or $PGPASSWORD, or with %40 for @ and %2F for /",
    )
    try:
        given = {key: str(value) for key, value in psycopg.conninfo.conninfo_to_dict(url).items()}
    except psycopg.Error:
        raise wrong from None
    host, port, database = (given.get(key, "") for key in ("host", "port", "dbname"))
    if "@" in host[1:] or "@" in database or (port and not port.replace(",", "").isdigit()):
        raise wrong
    ensure_folder(folder)
    options = {"options": f"{given.pop('options', '')} {_SESSION}".strip()}
    target = psycopg.conninfo.make_conninfo("", **(_CONNECTION | given | options))
    described = f"postgresql://{host}{':' * bool(port)}{port}/{database}"

    def connect() -> psycopg.Connection:
        connection = psycopg.connect(target)
        connection.execute("SET TIME ZONE 'UTC'")  # heartbeats are stored without one; $PGTZ would overrule an option
        connection.commit()
        return connection

    return Storage(described, os.path.basename(os.path.abspath(folder)), _pool(connect, stack), None, alone=False)


def _pool(connect: Callable[[], Any], stack: ExitStack) -> sqlalchemy.Pool:
    pool = sqlalchemy.QueuePool(connect, pre_ping=True)
    stack.callback(pool.dispose)
    return pool
