"""Servers and stores that hang or are broken, locks and records that are half written, full disks."""

import contextlib
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

from dev.faults.changes import digest
from dev.faults.kills import pace
from dev.faults.outcome import REFUSED_AFTER, Kind, Outcome, SkippedError, refusal, settled
from dev.faults.workload import RUN, Project

SERVERS = ("hangs", "refuses", "500", "garbage", "slow drip")
MEBI = 2**20


@contextlib.contextmanager
def server(how: str) -> Iterator[str]:
    """A server that is no use; yields its address."""
    listening = socket.create_server(("127.0.0.1", 0))
    port, over = listening.getsockname()[1], threading.Event()
    if how == "refuses":
        listening.close()
    else:
        threading.Thread(target=_accept, args=(listening, how, over), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        over.set()
        listening.close()


def _accept(listening: socket.socket, how: str, over: threading.Event) -> None:
    with contextlib.suppress(OSError):
        while not over.is_set():
            accepted, _ = listening.accept()
            threading.Thread(target=_answer, args=(accepted, how, over), daemon=True).start()


def _answer(accepted: socket.socket, how: str, over: threading.Event) -> None:
    with contextlib.suppress(OSError), accepted:
        if how == "hangs":
            over.wait()
            return
        accepted.recv(65536)
        if how == "slow drip":
            accepted.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n")
            while not over.wait(1.0):
                accepted.sendall(b" ")
            return
        if how == "500":
            accepted.sendall(
                b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 4\r\nConnection: close\r\n\r\noops"
            )
        else:
            accepted.sendall(b"\0\1\2 this is not HTTP\r\n\r\n")


def bad_server(project: Project, random: Random, number: int) -> Outcome:
    """Register at a server that hangs or is broken: one line, soon; then at the own store."""
    how = SERVERS[number % len(SERVERS)]
    plain, importing = project.call(*RUN), project.call("mlflow", "--version")
    with server(how) as address:
        done = project.call(*RUN, MLFLOW_TRACKING_URI=address)
    # The undisturbed run has not needed MLflow's import.
    wrong = (
        refusal(done, plain.seconds + importing.seconds + REFUSED_AFTER)
        if done.code
        else ["ended well without a server"]
    )
    return settled(project, how, wrong)


def bad_server_live(project: Project, random: Random, number: int) -> Outcome:
    """Train beside a live run at such a server: the stage neither fails nor waits for it."""
    how = SERVERS[number % len(SERVERS)]
    with server(how) as address:
        done = project.call("dvc", "repro", "irft_train@r1", MLFLOW_TRACKING_URI=address, JUICER_LIVE_SECONDS="0.1")
    wrong = [f"the stages did not survive: {done}"] if done.code else []
    return settled(project, how, wrong + (["took long"] if done.seconds > 60 else []))


STORES = ("empty", "half a page", "cut in the middle", "no tables", "half of the tables", "noise", "text", "folder")


def bad_store(project: Project, random: Random, number: int) -> Outcome:
    """Break mlflow.db: the next run remakes it from the record."""
    how, store = STORES[number % len(STORES)], project.folder / "mlflow.db"
    whole = store.read_bytes()
    if how == "half of the tables":
        _half_of_tables(project, random)
    elif how == "folder":
        store.unlink()
        store.mkdir()
    elif how == "no tables":
        import sqlite3

        store.unlink()
        with contextlib.closing(sqlite3.connect(store)) as made:
            made.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
    else:
        noise = whole[:100] + random.randbytes(len(whole) - 100)
        cut = {"empty": 0, "half a page": 2000, "cut in the middle": len(whole) // 2}
        store.write_bytes({"noise": noise, "text": b"not a database\n"}.get(how, whole[: cut.get(how, 0)]))
    begun = time.monotonic()
    outcome = settled(project, how)
    if time.monotonic() - begun > 60 + 4 * pace(project):
        outcome.add("took more than a minute")
    return outcome


def _half_of_tables(project: Project, random: Random) -> None:
    """What a killed creation leaves: a store some of whose migrations have been done."""
    import sqlite3

    with contextlib.closing(sqlite3.connect(project.folder / "mlflow.db")) as made:
        names = [name for (name,) in made.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for name in [*random.sample(sorted(names), len(names) // 2), "alembic_version"]:
            with contextlib.suppress(sqlite3.Error):
                made.execute(f'DROP TABLE "{name}"')
        made.commit()


def half_file(project: Project, random: Random, number: int) -> Outcome:
    """What a kill or a full disk leaves of files that are written in place."""
    whole = project.read("dvc.lock")
    states = [
        (".dvc/tmp/rwlock", ""),
        (".dvc/tmp/rwlock", '{"read": {"'),
        (".dvc/tmp/rwlock", '"x"'),
        ("dvc.lock", ""),
        ("dvc.lock", whole[: len(whole) // 2]),
        ("dvc.lock", whole[: whole.index("  irft_train")]),
        ("dvc.lock", "\0" * len(whole)),
        (".dvc/tmp/lock", ""),
        (".juicer/align.order.json", '["cur'),
        (".juicer/costs/sft.json", '{"stage"'),
        (".juicer/cost_ledger.json", ""),
        (".juicer/attempts/sft.json", "{"),
    ]
    path, text = states[number % len(states)]
    (project.folder / path).parent.mkdir(parents=True, exist_ok=True)
    (project.folder / path).write_text(text)
    return settled(project, f"{path}: {text[:12]!r} ({len(text)} bytes)")


def full_disk(project: Project, random: Random, number: int) -> Outcome:
    """Run on a disk that is full, or fills up; then free it and run again."""
    folder = project.folder
    aside = folder.with_name(f"{folder.name}-aside")
    folder.rename(aside)
    folder.mkdir()
    size = 4 * sum(path.stat().st_size for path in aside.rglob("*") if path.is_file()) + 64 * MEBI
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "faults", str(folder)]
    if os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        folder.rmdir()
        aside.rename(folder)
        raise SkippedError("a disk of limited size needs mount, as root")
    try:
        subprocess.run(["cp", "-a", f"{aside}/.", str(folder)], check=True)
        if number % 4 == 3:
            for path in folder.glob("mlflow.db*"):
                path.unlink()
        filler = folder / ".juicer/filler"
        left = random.choice([0, 4096, 16384, 65536, 200000])
        late = number % 2
        if not late:
            _fill(folder, filler, left)
        running = project.start(*RUN)
        if late:
            project.until(lambda: project.processes("tasks.sft"), running)
            time.sleep(random.uniform(0.0, 2.5))
            _fill(folder, filler, left)
        done = running.wait()
        filler.unlink()
        wrong = refusal(done, 200) if done.code else []
        return settled(project, f"{left} bytes left{', while sft ran' if late else ''}: {done}", wrong)
    finally:
        project.kill_all()
        subprocess.run(["umount", "-l", str(folder)], check=False)
        folder.rmdir()
        shutil.move(aside, folder)


def _fill(folder: Path, filler: Path, left: int) -> None:
    """Write until the disk is full, then give `left` bytes back."""
    with filler.open("wb", buffering=0) as file:
        with contextlib.suppress(OSError):
            while file.write(b"\0" * 65536) == 65536:
                pass
        with contextlib.suppress(OSError):
            while file.write(b"\0" * 512):
                pass
        file.truncate(max(0, file.tell() - left))


def refused_recipe(project: Project, random: Random, number: int) -> Outcome:
    """A wrong command: one line, and nothing is changed."""
    commands = [
        ("juicer", "run", "recipes/absent.yaml"),
        ("juicer", "run", "sft.optimiser.learning_rat=1"),
        ("juicer", "use", "quickstart", "irft.rounds=x"),
    ]
    before = digest(project.folder)
    done = project.call(*commands[number % len(commands)])
    wrong = refusal(done, 60, alone=True) if done.code else ["was not refused"]
    wrong += ["a refused command has changed something"] if digest(project.folder) != before else []
    return settled(project, " ".join(commands[number % len(commands)]), wrong)


KINDS = [
    Kind("hanging or broken server", 5, bad_server, "full"),
    Kind("such a server beside a live run", 5, bad_server_live),
    Kind("broken mlflow.db", len(STORES), bad_store, "full"),
    Kind("half-written record or lock", 12, half_file, "full"),
    Kind("full disk", 12, full_disk),
    Kind("refused command", 3, refused_recipe, "full"),
]
