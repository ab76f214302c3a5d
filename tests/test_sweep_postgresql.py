"""`mnist-edge sweep --storage postgresql://`: several workers on one real server; killed workers, a lost server, faults."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from time import sleep
from typing import Any

import psycopg
import pytest

from mnist_edge.cli.app import app
from mnist_edge.errors import BadFileError, MnistEdgeError, UnavailableError
from mnist_edge.extras import install_hint
from mnist_edge.sweeping.storage import open_storage
from mnist_edge.sweeping.study import Space, open_study

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TRIALS = 8
SECRET = "tops3cret%21"  # an escaped exclamation mark
OPTIONS = ("--dataset", "digits", "--epochs", "40", "--lr", "0.005:0.2", "--batch-size", "64,128",
           "--widths", "12", "--widths", "8,6", "--seeds", "0")  # fmt: skip


def binary(name: str) -> str:
    """Debian installs the server's programs outside the PATH."""
    found = [shutil.which(name), *map(str, Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))]
    return next((path for path in found if path), "")


class Server:
    """A PostgreSQL server in a folder of its own, run by a user that is not root; it asks for a password over TCP."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.user: list[str] = []
        if os.getuid() == 0:  # the server refuses to run as root
            owner = pwd.getpwnam("nobody")
            os.chown(folder, owner.pw_uid, owner.pw_gid)
            self.user = ["setpriv", f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--clear-groups"]
        self._run(binary("initdb"), "-D", folder / "data", "-U", "owner", "--auth=trust", "--no-sync", "-E", "UTF8")
        configuration = f"listen_addresses = ''\nfsync = off\nunix_socket_directories = '{folder}'\n"
        # Wall clock times without a zone would jump twice a year.
        configuration += "timezone = 'America/New_York'\n"
        self._run("sh", "-c", f'printf "%s" "{configuration}" >> {folder}/data/postgresql.conf')
        self.start()

    def _run(self, *command: object) -> None:
        subprocess.run(
            [*self.user, *map(str, command)], check=True, cwd=self.folder, stdout=subprocess.DEVNULL, timeout=120
        )

    def start(self) -> None:
        self._run(binary("pg_ctl"), "-D", self.folder / "data", "-w", "-l", self.folder / "log", "start")

    def stop(self) -> None:
        self._run(binary("pg_ctl"), "-D", self.folder / "data", "-m", "immediate", "-w", "stop")

    def ask(self, query: str, database: str = "postgres") -> list[tuple]:
        with psycopg.connect(host=str(self.folder), user="owner", dbname=database, autocommit=True) as connection:
            answer = connection.execute(query)
            return answer.fetchall() if answer.description else []

    def url(self, database: str, user: str = "owner") -> str:
        return f"postgresql://{user}:{SECRET}@/{database}?host={self.folder}"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    if not binary("initdb"):
        pytest.skip("PostgreSQL is not installed: Debian's package postgresql")
    with tempfile.TemporaryDirectory(prefix="mnist-edge-") as folder:
        running = Server(Path(folder))
        yield running
        running.stop()


@pytest.fixture
def database(server: Server, request: pytest.FixtureRequest) -> str:
    name = f"d{abs(hash(request.node.name)) % 10**8}"
    server.ask(f"CREATE DATABASE {name}")
    return name


def arguments(url: str, study: Path, *, trials: int = TRIALS) -> list[str]:
    return ["sweep", *OPTIONS, "--trials", str(trials), "--study", str(study), "--storage", url, "--json"]


BEATS = "import mnist_edge.sweeping.storage as s; s.HEARTBEAT_SECONDS = 1; s.GRACE_SECONDS = 20;"
HOLDS = """
import sys, time, mnist_edge.sweeping.search as search
def train_for_ever(*arguments):
    print("holding a trial", file=sys.stderr, flush=True)
    while True:
        arguments[-1].on_step(0, 1)
        time.sleep(0.2)
search._held_out_accuracy = train_for_ever
"""


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the real command in a process of its own, with quicker heartbeats; none is left behind."""
    with ExitStack() as stack:

        def started(command: list[str], hook: str = "") -> subprocess.Popen[str]:
            code = f"{BEATS}{hook}\nfrom mnist_edge.cli.entry import main; main()"
            env = os.environ | {"OMP_NUM_THREADS": "1"}
            process = subprocess.Popen(
                [sys.executable, "-c", code, *command],
                env=env,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            stack.enter_context(process)  # closes its pipes and waits
            stack.callback(process.kill)
            return process

        yield started


def refused(command: list[str]) -> MnistEdgeError:
    with pytest.raises(MnistEdgeError) as caught:
        app(command, standalone_mode=False)
    assert SECRET not in f"{caught.value.message} {caught.value.hint}"
    assert len(f"{caught.value.message} {caught.value.hint}".splitlines()) == 1
    return caught.value


def places(server: Server, database: str, state: str = "COMPLETE") -> list[int]:
    """What the database itself holds: the place of each trial in a state."""
    found = server.ask(
        "SELECT value_json FROM trials JOIN trial_user_attributes USING (trial_id) "
        f"WHERE key = 'place' AND state = '{state}'",
        database,
    )
    return sorted(int(value) for (value,) in found)


def test_four_workers_share_a_database_and_one_is_killed(
    server: Server, database: str, tmp_path: Path, start: Any
) -> None:
    """Each place is finished once, the killed worker's too, although every worker has a folder of its own."""
    url = server.url(database)
    victim = start(arguments(url, tmp_path / "0" / "mine"), HOLDS)
    assert victim.stderr is not None
    assert "holding a trial" in victim.stderr.readline()
    others = [start(arguments(url, tmp_path / str(number) / "mine")) for number in (1, 2, 3)]
    while not places(server, database):
        assert all(other.poll() is None for other in others)
        sleep(0.1)
    assert places(server, database, "RUNNING")[0] == 0
    victim.kill()
    victim.communicate()
    ended = [other.communicate(timeout=500) for other in others]
    assert [other.returncode for other in others] == [0, 0, 0], ended
    assert places(server, database) == list(range(TRIALS))
    assert places(server, database, "FAIL") == [0]
    assert places(server, database, "RUNNING") == []
    lines = [line for _, err in ended for line in err.splitlines() if line.startswith("trial")]
    assert len(lines) == TRIALS
    reports = [json.loads(out) for out, _ in ended]
    assert all(len(report["trials"]) == TRIALS for report in reports)
    assert {report["storage"] for report in reports} == {f"postgresql://{server.folder}/{database}"}
    assert SECRET not in "".join(out + err for out, err in ended)


def test_a_server_that_stops_ends_the_workers_and_loses_no_finished_trial(
    server: Server, database: str, tmp_path: Path, start: Any
) -> None:
    """One line with the storage and how to continue, exit code 4; when the server is back, the same command continues."""
    command = arguments(server.url(database), tmp_path / "mine")
    workers = [start(command), start(command)]
    while len(places(server, database) if server.ask(HAS_TABLES, database) else []) < 3:
        assert all(worker.poll() is None for worker in workers)
        sleep(0.1)
    server.stop()
    try:
        ended = [worker.communicate(timeout=120) for worker in workers]
    finally:
        server.start()
    assert [worker.returncode for worker in workers] == [4, 4], ended
    for out, err in ended:
        told = [line for line in err.splitlines() if not line.startswith("trial")]
        assert len(told) == 1, err
        assert f"postgresql://{server.folder}/{database}: " in told[0]
        assert "same command" in told[0]
        assert json.loads(out)["error"]["kind"] == "environment"
        assert SECRET not in out + err
    kept = places(server, database)
    assert 3 <= len(kept) < TRIALS
    out, err = start(command).communicate(timeout=500)
    assert places(server, database) == list(range(TRIALS)), err
    assert len([line for line in err.splitlines() if line.startswith("trial")]) == TRIALS - len(kept)
    assert len(json.loads(out)["trials"]) == TRIALS


HAS_TABLES = "SELECT 1 FROM pg_tables WHERE tablename = 'trial_user_attributes'"


def test_each_fault_of_a_database_has_its_line(server: Server, database: str, tmp_path: Path, monkeypatch) -> None:
    """Exit code 4 and what to do: no such database, no permission, no server, no writing, no driver."""
    study = tmp_path / "mine"
    error = refused(arguments(server.url("nowhere"), study))
    assert (error.exit_code, "nowhere" in error.message, "createdb" in error.hint) == (4, True, True)
    server.ask("CREATE ROLE guest LOGIN")
    error = refused(arguments(server.url(database, "guest"), study))
    assert (error.exit_code, "GRANT CREATE ON SCHEMA public" in error.hint) == (4, True)
    error = refused(arguments(f"postgresql://owner:{SECRET}@127.0.0.1:1/x", study))
    assert (error.exit_code, "postgresql://127.0.0.1:1/x" in error.message, "server" in error.hint) == (4, True, True)
    server.ask(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    error = refused(arguments(server.url(database), study))
    assert (error.exit_code, "read-only" in error.message) == (4, True)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    error = refused(arguments(server.url(database), study))
    assert (error.exit_code, error.hint) == (4, install_hint("postgresql"))


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://me:{SECRET}@word@host/x", f"postgresql://me:{SECRET}/word@host/x", f"postgresql://me:{SECRET}@host:a/x",
        f"postgresql://me:{SECRET}%zz@host/x", f"postgresql://host/x?password={SECRET}&unknown=1", f"mysql://me:{SECRET}@host/x",
    ],
)  # fmt: skip
def test_a_url_that_cannot_be_read_is_not_repeated(tmp_path: Path, url: str) -> None:
    """A password with an unescaped character looks like a host, a port or a name of a database."""
    error = refused(arguments(url, tmp_path / "mine"))
    assert error.exit_code == 2
    assert "word" not in error.message
    assert not (tmp_path / "mine").exists()


def test_studies_of_one_database_do_not_mix(server: Server, database: str, tmp_path: Path, capsys) -> None:
    """A study has the name of its folder; another name is another sweep, other settings of the same one are refused."""
    command = [*arguments(server.url(database), tmp_path / "one", trials=1), "--epochs", "1"]
    app(command, standalone_mode=False)
    app([*command, "--study", str(tmp_path / "two"), "--lr", "0.01:0.1"], standalone_mode=False)
    error = refused([*command, "--study", str(tmp_path / "elsewhere" / "one"), "--lr", "0.01:0.1"])
    assert error.exit_code == 2
    assert "sweep one with --lr 0.005:0.2, not 0.01:0.1" in error.message
    assert SECRET not in capsys.readouterr().out
    assert [name for (name,) in server.ask("SELECT study_name FROM studies ORDER BY study_name", database)] == [
        "one",
        "two",
    ]


@pytest.mark.parametrize("zones", [("Asia/Tokyo", "America/Los_Angeles"), ("America/Los_Angeles", "Asia/Tokyo")])
def test_heartbeats_go_by_the_clock_of_the_database(
    server: Server, database: str, tmp_path: Path, monkeypatch, zones: tuple[str, str]
) -> None:
    """Workers in other time zones, or with a clock that is wrong by an hour, do not take each other's trials."""
    space = Space(lr=(0.01, 0.1), batch_sizes=(64,), widths=((4,),))
    monkeypatch.setenv("PGTZ", zones[0])
    with open_study(tmp_path / "a", space, {}, server.url(database)) as first:
        monkeypatch.setattr("time.time", lambda clock=time.time: clock() + 3600)
        claimed = first.claim(1)
        assert claimed is not None
        first.beat(claimed[0], force=True)
        monkeypatch.setenv("PGTZ", zones[1])
        with open_study(tmp_path / "b" / "a", space, {}, server.url(database)) as second:
            assert (second.claim(1), second.running()) == (None, 1)
    ((apart,),) = server.ask(
        "SELECT abs(extract(epoch FROM now() AT TIME ZONE 'UTC' - heartbeat)) FROM trial_heartbeats", database
    )
    assert apart < 60


def test_a_server_that_stops_within_a_transaction_is_no_damage(server: Server, database: str, tmp_path: Path) -> None:
    """The error that comes out may be SQLAlchemy's or Optuna's own, with nothing in it about the server."""
    with open_storage(tmp_path / "mine", server.url(database)) as storage:
        server.stop()
        try:
            with pytest.raises(UnavailableError, match="connection"), storage.explaining():
                raise RuntimeError("cannot go on")
        finally:
            server.start()
        with pytest.raises(BadFileError, match="is damaged: RuntimeError"), storage.explaining():
            raise RuntimeError("cannot go on")
