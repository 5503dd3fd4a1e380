"""What Juicer does on one NVIDIA GPU, measured on a machine that has PyTorch and little else.

    python bench/gpu.py --kit .gpu-kit                  # 8 minutes, most valuable part first; results in gpu-out
    python bench/gpu.py --kit .gpu-kit --parts irft     # one part; the same command goes on with a run that was cut
    python bench/gpu.py --tables gpu-out/gpu.json       # keep the results and write docs/performance.md

`make gpu-kit` collects what such a machine lacks. Every part has a process of its own, and every result is written to
OUT/gpu.json as soon as it is there; failures are results too. What this code has measured on this card is not measured
again. See docs/performance.md.
"""

import argparse
import contextlib
import fcntl
import importlib.metadata
import json
import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    # Modules are looked for in the repository, not in this folder, whose names are too common.
    sys.path[0] = str(ROOT)

from bench import gpu_source, gpu_tables  # noqa: E402
from bench.gpu_parts import PARTS  # noqa: E402
from bench.gpu_store import CUT, FAILED, MEASURED, Measurement, Results, keep  # noqa: E402

START = 120.0
"""Seconds that a part's process may take until it says what it is going to measure."""
ENOUGH = 15.0
"""Seconds under which no measurement is begun."""
TAIL = 2500
"""Characters of a log that go into a result."""


class Problem(Exception):
    """Why nothing can be measured, in one line."""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python bench/gpu.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=Path("gpu-out"), help="folder for gpu.json and log.txt, default %(default)s"
    )
    parser.add_argument("--kit", type=Path, help="folder that make gpu-kit collected: what is missing here")
    parser.add_argument("--minutes", type=minutes, default=8, help="when to stop, default %(default)g")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: all, in this order")
    parser.add_argument("--again", action="store_true", help="measure also what has been measured")
    parser.add_argument("--tiny", action="store_true", help="tiny models on the CPU: does everything start?")
    parser.add_argument(
        "--work", type=Path, help="folder for the kit's packages, models and the like; default: a temporary one"
    )
    parser.add_argument("--list", action="store_true", help="say what the parts are")
    parser.add_argument("--tables", nargs="*", type=Path, metavar="RESULTS", help="keep these, and write the tables")
    given = parser.parse_args()
    # Ended by a time limit it still takes its processes with it: nothing is left that holds the card.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        if given.list:
            print("\n".join(f"{name:11s} {part.title}" for name, part in PARTS.items()))
        elif given.tables is not None:
            kept = keep(given.tables)
            print("\n".join(f"kept {path.relative_to(ROOT)}" for path in kept))
            print(gpu_tables.write())
        else:
            measure(given)
    except KeyboardInterrupt:
        sys.exit("interrupted: the same command goes on")
    except (Problem, ValueError, OSError, subprocess.TimeoutExpired) as problem:
        sys.exit(f"error: {problem}")


def minutes(text: str) -> float:
    """A number of minutes in which something can be measured."""
    value = float(text)
    if not 60 * value > ENOUGH:
        raise argparse.ArgumentTypeError(f"{text} is too short: a measurement takes {ENOUGH:.0f} s or more")
    return value


def measure(given: argparse.Namespace) -> None:
    """Measure what is not measured yet, until all is or the time is over."""
    end = time.monotonic() + 60 * given.minutes
    given.out.mkdir(parents=True, exist_ok=True)
    code = gpu_source.fingerprint(ROOT)
    name = f"juicer-gpu-{os.getuid()}-{code[:12]}{'-tiny' if given.tiny else ''}"
    work = (given.work or Path(tempfile.gettempdir()) / name).resolve()
    work.mkdir(mode=0o700, parents=True, exist_ok=True)
    run = Run(given.out, given.kit, work, given.tiny, end)
    with alone(given.out), alone(work):
        if given.kit:
            install(given.kit, run)
        _measure(given, run, code)


def _measure(given: argparse.Namespace, run: "Run", code: str) -> None:
    environment = {**run.environment(), **source(given.kit), "tiny": given.tiny, "command": command()}
    card = "CPU, tiny models" if given.tiny else environment["card"]
    if card is None:
        raise Problem("PyTorch sees no NVIDIA GPU here; --tiny runs every part with tiny models on the CPU")
    path = given.out / "gpu.json"
    results = Results.read(path) if path.is_file() else Results(card)
    if results.card != card:
        raise Problem(f"{path} is of {results.card}, this machine has {card}: take another folder")
    keeper = Keeper(results, path, results.enter(environment))
    print(f"{card}, {environment['versions']['torch']}, code {code[:12]}, commit {environment['commit']}", flush=True)
    # What has failed before comes last: the time is for what has not been tried.
    settled = partial(results.settled, environment)
    done, failed = ({} if given.again else settled(states) for states in ((MEASURED,), (FAILED, CUT)))
    for later in (failed, {}):
        for part in given.parts:
            known = done.setdefault(part, set())
            known |= run.part(part, known | later.get(part, set()), keeper)
        if not failed:
            break
    print(summary(results, given.parts))
    if run.left() <= ENOUGH:
        print("The time is over: the same command goes on.")
    if not given.tiny:
        print(f"Keep the results: python bench/gpu.py --tables {path}")


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder.

    Raises:
        Problem: another run is at work in it.
    """
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise Problem(f"another run is measuring (it holds {folder}/.lock); wait for its end") from error
        yield


def summary(results: Results, parts: list[str]) -> str:
    """What the measurements came to."""
    states = [each.state for each in results.measurements.values() if each.part in parts]
    counts = ", ".join(f"{states.count(state)} {state}" for state in (MEASURED, FAILED, CUT))
    return f"{counts}."


@dataclass
class Keeper:
    """Writes each result as it comes."""

    results: Results
    path: Path
    environment: str

    def forget(self, part: str, name: str) -> None:
        """Drop what has become untrue: that a part does not start."""
        self.results.measurements.pop((part, name), None)

    def __call__(self, part: str, name: str, state: str, seconds: float, **more: Any) -> None:
        date = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
        more |= {name: without_folders(more[name]) for name in ("error", "traceback") if name in more}
        self.results.add(Measurement(part, name, state, round(seconds, 2), date, self.environment, **more))
        self.results.write(self.path)
        said = more.get("error") or json.dumps(more.get("values", {}))
        print(f"{part} | {name}: {state} [{seconds:.1f} s] {said[:300]}", flush=True)


@dataclass
class Run:
    """One run on one machine."""

    out: Path
    kit: Path | None
    work: Path
    tiny: bool
    end: float
    """Of `time.monotonic`."""

    def left(self) -> float:
        """Seconds until the end."""
        return self.end - time.monotonic()

    @property
    def log(self) -> Path:
        return self.out / "log.txt"

    @property
    def site(self) -> Path:
        """Where the wheels of the kit are installed."""
        return self.work / f"site-{sys.version_info.major}.{sys.version_info.minor}"

    def limit(self, part: str) -> float:
        """Seconds that one measurement may take; many more where only the path is shown."""
        return PARTS[part].each * (5 if self.tiny else 1)

    def environment(self) -> dict[str, Any]:
        """What the machine is, by a process that imports torch.

        Raises:
            Problem: it cannot.
        """
        with self._started("environment", set()) as events:
            events.deadline = time.monotonic() + min(START, self.left())
            for event in events:
                found: dict[str, Any] = event["environment"]
                return found
        raise Problem(f"the parts do not start: {last_line(self.tail())} (see {self.log})")

    def part(self, name: str, skipped: set[str], keeper: Keeper) -> set[str]:
        """Measure one part. Returns the names of what was tried, `skipped` not among them.

        A process that dies or takes too long is started again for what is left.
        """
        tried: set[str] = set()
        while self.left() > ENOUGH:
            before = len(tried)
            names = self._followed(name, skipped | tried, tried, keeper)
            if not set(names) - skipped - tried or len(tried) == before:
                break
        return tried

    def _followed(self, part: str, skipped: set[str], tried: set[str], keeper: Keeper) -> list[str]:
        """Follow one process of a part to its end. Returns the names of all that it would measure; [] to give it up."""
        names: list[str] = []
        current, begun = "start", time.monotonic()
        with self._started(part, skipped) as events:
            events.deadline = begun + min(START, self.left())
            died = ""
            for event in events:
                if "names" in event:
                    names = event["names"]
                    keeper.forget(part, "start")
                elif "start" in event:
                    current, begun = event["start"], time.monotonic()
                    if self.left() <= ENOUGH:
                        return []
                    events.deadline = begun + min(self.limit(part), self.left())
                    continue
                elif "done" in event:
                    keeper(part, current, MEASURED, event["seconds"], values=event["values"])
                    tried.add(current)
                elif "failed" in event:
                    more = {"error": event["error"], "traceback": event["traceback"]}
                    keeper(part, current, FAILED, time.monotonic() - begun, **more)
                    tried.add(current)
                current, events.deadline = "", time.monotonic() + min(START, max(1.0, self.left()))
            over = time.monotonic() >= events.deadline
            if current and not over:
                died = events.death()
        if current and self.left() > 1:  # if all time is over it was not its fault, and it stays to be measured
            state = CUT if over else FAILED
            told = died if names else f"{last_line(self.tail())} ({died})"
            error = f"took longer than {self.limit(part) if names else START:.0f} s" if over else told
            keeper(part, current, state, time.monotonic() - begun, error=error, traceback=self.tail())
            tried.add(current)
        return names

    def tail(self) -> str:
        """The end of what processes have printed."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-TAIL:] if self.log.is_file() else ""

    @contextlib.contextmanager
    def _started(self, part: str, skip: set[str]) -> Iterator["Events"]:
        """A process that measures a part; nothing of it is left afterwards.

        Its standard input ends with this process, however that ends, and it with that.
        """
        reading, writing = os.pipe()
        self.work.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            log.write(f"\n== {part}, {time.strftime('%H:%M:%S', time.gmtime())} UTC\n".encode())
            log.flush()
            process = subprocess.Popen(
                self._command(part, writing, skip), cwd=ROOT, env=self._variables(),
                stdout=log, stderr=log, stdin=subprocess.PIPE, pass_fds=(writing,), start_new_session=True,
            )  # fmt: skip
        os.close(writing)
        try:
            yield Events(reading, process)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=10)  # one that waits for a driver cannot be ended
            if process.stdin:
                process.stdin.close()
            os.close(reading)

    def _command(self, part: str, events: int, skip: set[str]) -> list[str]:
        command = [sys.executable, "-m", "bench.gpu_parts", part, "--work", str(self.work), "--events", str(events)]
        command += ["--skip", json.dumps(sorted(skip)), *(["--tiny"] if self.tiny else [])]
        return [*command, "--kit", str(self.kit.resolve())] if self.kit else command

    def _variables(self) -> dict[str, str]:
        path = [str(ROOT), str(self.site), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path),
            "PYTHONUNBUFFERED": "1",
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_OFFLINE": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "TRANSFORMERS_VERBOSITY": "error",
            "OMP_WAIT_POLICY": "PASSIVE",
            # As the stages set it.
            "PYTORCH_ALLOC_CONF": os.environ.get("PYTORCH_ALLOC_CONF", "expandable_segments:True"),
            **({"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"} if self.tiny else {}),
        }


class Events:
    """JSON lines from a pipe, until the other side has ended or `deadline` is over."""

    def __init__(self, reading: int, process: "subprocess.Popen[bytes]") -> None:
        self.deadline = 0.0
        """Of `time.monotonic`; may be moved while the lines are read."""
        self._process = process
        self._reading, self._held = reading, b""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        with selectors.DefaultSelector() as waiting:
            waiting.register(self._reading, selectors.EVENT_READ)
            while (left := self.deadline - time.monotonic()) > 0:
                if not waiting.select(left):
                    continue
                read = os.read(self._reading, 1 << 16)
                if not read:
                    return
                *lines, self._held = (self._held + read).split(b"\n")
                for line in lines:
                    yield json.loads(line)

    def death(self) -> str:
        """How the process ended, once it has."""
        try:
            code = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return "its process did not end"
        return f"its process ended with signal {-code}" if code < 0 else f"its process ended with exit code {code}"


def install(kit: Path, run: Run) -> None:
    """Install the wheels of the kit whose packages are not there, or are older; what else is there is used as it is.

    A wheel that cannot be installed is left out: only the parts that need it fail.

    Raises:
        Problem: there is no such kit, or none of it can be installed.
    """
    wheels = sorted((kit / "wheels").glob("*.whl"))
    if not wheels:
        raise Problem(f"{kit} holds no wheels: make gpu-kit")
    if run.site.is_dir():  # it gets its name when it is whole
        return
    there = {name_of(each.name): each.version for each in importlib.metadata.distributions()}
    wanted = [
        wheel for wheel in wheels if older(there.get(name_of(wheel.name.split("-")[0])), wheel.name.split("-")[1])
    ]
    unfinished = run.site.with_name(f"{run.site.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    failed = [] if pip(wanted, unfinished, run) else [wheel for wheel in wanted if not pip([wheel], unfinished, run)]
    if wanted and failed == wanted:
        raise Problem(f"the kit cannot be installed: {last_line(run.tail())} (see {run.log})")
    unfinished.replace(run.site)
    print(f"installed {', '.join(each.name.split('-')[0] for each in wanted if each not in failed)}", flush=True)
    for wheel in failed:
        print(f"{wheel.name} cannot be installed: the parts that need it will fail (see {run.log})", flush=True)


def pip(wheels: Sequence[Path], site: Path, run: Run) -> bool:
    """Install some wheels. Returns whether it went well."""
    options = ["--quiet", "--no-index", "--no-deps", "--no-compile", "--no-cache-dir", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *options, "--upgrade", "--target", str(site), *map(str, wheels)]
    with run.log.open("ab") as log:
        try:
            done = subprocess.run(command, stdout=log, stderr=log, check=False, timeout=max(1.0, run.left()))
        except subprocess.TimeoutExpired:
            return False
    return not done.returncode


def older(there: str | None, carried: str) -> bool:
    """Whether what is there, if anything, is older than what the kit carries."""
    one, other = (tuple(map(int, re.findall(r"\d+", version)))[:3] for version in (there or "", carried))
    return one < other


def name_of(name: str) -> str:
    """A distribution's name in one spelling."""
    return name.lower().replace("_", "-").replace(".", "-")


def source(kit: Path | None) -> dict[str, Any]:
    """Which code this is: by git, or where there is none by what the kit says of the same files."""
    here = gpu_source.source(ROOT)
    path = kit / "source.json" if kit else None
    if here["commit"] is None and path and path.is_file():
        told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return told if told["code"] == here["code"] else here
    return here


def command() -> str:
    """The command line, without the folders of this machine."""
    words = [re.sub(r"[^=]*/", "", word.rstrip("/")) for word in sys.argv[1:]]
    return " ".join(["python bench/gpu.py", *words])


def without_folders(text: str) -> str:
    """The same text with files named as in the repository or in their package: results are kept in the repository."""
    text = text.replace(f"{ROOT}/", "")
    return re.sub(r"(?<![\w.:/])/(?:[\w.+@=-]+/)+(?:site-packages/)?", _package, text)


def _package(found: re.Match[str]) -> str:
    _, inside, rest = found[0].partition("/site-packages/")
    return rest if inside else ""


def last_line(text: str) -> str:
    """The last line that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("== ")]
    return lines[-1][:400] if lines else "it said nothing"


if __name__ == "__main__":
    main()
