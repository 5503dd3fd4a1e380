"""What `juicer run` says while it works: stage N of M, elapsed and expected time, failures and where their log is."""

import io
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import pytest

from juicer.running.progress import (
    HEARTBEAT,
    Lines,
    Row,
    Run,
    about,
    announced,
    kind_of,
    log_of,
    time_left,
    took,
    view_of,
)
from juicer.stages.live import PROGRESS, Done, Live, read_done

ORDER = ["code", "fetch", "sft", "report"]
NEEDS = {"fetch": ["code"], "sft": ["fetch"], "report": ["sft"]}
SECONDS: dict[str, float | None] = {"code": 1.0, "fetch": 9.0, "sft": 100.0, "report": 10.0}


class Shown:
    """A view that keeps what it is told."""

    def __init__(self, *, heartbeats: bool = True, talks: bool = True) -> None:
        self.heartbeats, self.talks = heartbeats, talks
        self.lines, self.errors, self.heads = list[str](), list[str](), list[str]()
        self.rows: Sequence[Row] = ()
        self.closed = False

    def say(self, line: str, *, error: bool = False) -> None:
        (self.errors if error else self.lines).append(line)

    def draw(self, head: str, ended: int, stages: int, rows: Sequence[Row]) -> None:
        self.heads.append(f"{head} [{ended}/{stages}]")
        self.rows = rows

    def close(self) -> None:
        self.closed = True


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.chdir(tmp_path)
    return Clock()


def run_of(
    clock: Clock,
    view: Shown,
    forecasts: Mapping[str, str] | None = None,
    seconds: Mapping[str, float | None] = SECONDS,
) -> Run:
    def estimate(pending: Collection[str]) -> Mapping[str, float | None]:
        return {stage: seconds.get(stage) for stage in pending}

    return Run(ORDER, NEEDS, forecasts or {}, estimate, view, clock=clock)


def work(run: Run, clock: Clock, stage: str, seconds: float, text: str = "", how: str = "ran") -> None:
    with run.command(stage) as (output, _):
        output.write(text.encode())
        output.flush()
        clock.now += seconds
    run.ended(stage, how)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "0 s"), (41.3, "41 s"), (59.7, "1 min"), (130, "2 min 10 s"), (3600, "1 h"), (3840, "1 h 4 min"),
     (7199.9, "2 h")],
)  # fmt: skip
def test_measured_times_are_exact(seconds: float, words: str) -> None:
    assert took(seconds) == words


@pytest.mark.parametrize(
    ("seconds", "words"), [(1, "5 s"), (41, "40 s"), (58, "1 min"), (250, "4 min"), (5400, "1.5 h"), (36000, "10 h")]
)
def test_expected_times_are_no_more_exact_than_they_are_known(seconds: float, words: str) -> None:
    assert about(seconds) == words


def test_time_left_is_a_bound_where_some_of_it_is_not_known() -> None:
    assert time_left(240, 0) == "about 4 min left"
    assert time_left(240, 2) == "at least 4 min left"
    assert time_left(0, 2) == "", "nothing rather than a guess"
    assert time_left(0.3, 0) == "nearly done"


def test_a_run_says_what_it_is_going_to_do() -> None:
    forecasts = {"a": "will run", "b": "restored", "c": "unchanged", "d": "unchanged", "e": "will run"}
    head = "5 stages: 2 to run, 1 to be restored, 2 unchanged"
    assert announced(forecasts, 250, 0) == f"{head}; expected to take about 4 min"
    bound = f"{head}; expected to take at least 4 min, because 1 stage has not run here like this"
    assert announced(forecasts, 250, 1) == bound
    assert announced(forecasts, 0, 2).startswith(f"{head}; how long that takes is not known")
    assert announced({"a": "unchanged"}, 0, 0) == "1 stage: 1 unchanged"


def test_each_stage_has_a_line_when_it_starts_and_one_when_it_ends(clock: Clock) -> None:
    view = Shown()
    run = run_of(clock, view)
    work(run, clock, "code", 2, "code: 3 programs [1.9 s]\n")
    work(run, clock, "fetch", 8)
    clock.now += 1
    with run.command("sft"):
        pass
    assert view.lines == [
        "stage 1 of 4: code started, about 5 s expected; 0 s elapsed, about 2 min left",
        "code: 3 programs [1.9 s]",
        "stage 1 of 4: code done in 2 s",
        "stage 2 of 4: fetch started, about 10 s expected; 2 s elapsed, about 2 min left",
        "stage 2 of 4: fetch done in 8 s",
        "stage 3 of 4: sft started, about 2 min expected; 11 s elapsed, about 2 min left",
    ]


def test_unchanged_stages_share_a_line_and_count(clock: Clock) -> None:
    view = Shown()
    run = run_of(clock, view, {"code": "unchanged", "fetch": "restored"})
    run.ended("code", "unchanged")
    run.ended("fetch", "restored")
    work(run, clock, "sft", 100)
    work(run, clock, "report", 10)
    run.close()
    assert view.lines[:3] == [
        "stage 2 of 4: fetch restored from DVC's cache",
        "unchanged: code",
        "stage 3 of 4: sft started, about 2 min expected; 0 s elapsed, about 2 min left",
    ]
    assert view.lines[-1] == "all 4 stages up to date after 1 min 50 s (2 ran, 1 restored, 1 unchanged)"
    assert view.closed


def test_a_stage_that_takes_long_is_mentioned_again_with_how_far_it_is(clock: Clock) -> None:
    view = Shown()
    run = run_of(clock, view)
    with run.command("sft") as (_, variables):
        run.poll()
        before = len(view.lines)
        Path(variables[PROGRESS]).write_text('[120, 350, ""]')
        clock.now += HEARTBEAT + 1
        run.poll()
        run.poll()
        assert view.lines[before:] == [
            "stage 1 of 4: sft at work for 2 min 1 s, at 120 of 350 (about 2 min expected); 2 min 1 s elapsed, "
            "at least 20 s left"
        ]
        clock.now += HEARTBEAT + 1
        run.poll()
    assert sum("at work" in line for line in view.lines) == 2


def test_without_earlier_times_nothing_is_expected(clock: Clock) -> None:
    view = Shown()
    run = run_of(clock, view, seconds={})
    work(run, clock, "code", 2)
    assert view.lines[0] == "stage 1 of 4: code started; 0 s elapsed"
    assert not any("left" in line or "expected" in line for line in view.lines)


def test_an_estimate_that_comes_up_during_the_run_is_used(clock: Clock) -> None:
    view, known = Shown(), dict[str, float | None]()
    run = run_of(clock, view, seconds=known)
    known["report"] = 30.0
    work(run, clock, "code", 2)
    work(run, clock, "fetch", 2)
    assert view.lines[-2] == "stage 2 of 4: fetch started; 2 s elapsed, at least 30 s left"


def test_a_failure_names_the_stage_and_its_log_which_keeps_the_output(clock: Clock) -> None:
    view = Shown()
    run = run_of(clock, view)
    work(run, clock, "code", 2)
    work(run, clock, "fetch", 3, "reading\nerror: rows.jsonl:1: invalid JSON\n", how="failed")
    run.close()
    log = log_of("fetch").absolute()
    assert view.errors == [
        "error: rows.jsonl:1: invalid JSON",
        f"stage 2 of 4: fetch failed after 3 s; its output: {log}",
    ]
    assert log.read_text() == "reading\nerror: rows.jsonl:1: invalid JSON\n"
    assert view.lines[-1] == "1 of 4 stages up to date after 5 s (1 ran)"


def test_a_stage_that_is_cancelled_has_stopped_and_not_failed(clock: Clock) -> None:
    view = Shown()
    run = run_of(clock, view)
    with run.command("code"):
        run.stop()
    run.ended("code", "failed")
    assert view.errors == [f"stage 1 of 4: code stopped after 0 s; its output: {log_of('code').absolute()}"]


def test_a_quiet_run_shows_failures_only_with_the_end_of_their_output(clock: Clock) -> None:
    view = Shown(talks=False)
    run = run_of(clock, view)
    run.announce()
    work(run, clock, "code", 2, "code: done\n")
    work(run, clock, "fetch", 2, "a\nerror: b", how="failed")
    run.close()
    assert view.lines == []
    assert view.errors[-2:] == [
        "error: b",
        f"stage 2 of 4: fetch failed after 2 s; its output: {log_of('fetch').absolute()}",
    ]
    assert view.errors.count("error: b") == 1


def test_a_terminal_draws_every_stage_at_work(clock: Clock) -> None:
    view = Shown(heartbeats=False)
    run = run_of(clock, view)
    with run.command("code") as (_, variables):
        Path(variables[PROGRESS]).write_text('[1, 4, "part"]')
        clock.now += HEARTBEAT + 5
        run.poll()
        assert view.heads[-1] == "stage 1 of 4, 2 min 5 s elapsed, at least 2 min left [0/4]"
        assert view.rows == [Row("code", Done(1, 4, "part"), "2 min 5 s (about 5 s expected)")]
        assert str(view.rows[0].at) == "part: 1 of 4"
    run.ended("code", "ran")
    assert view.rows == [] and view.lines == []


def test_what_a_bar_of_a_library_has_overwritten_is_left_out(clock: Clock) -> None:
    view = Shown()
    work(run_of(clock, view), clock, "code", 1, " 10%\r 50%\r100%\nfinished")
    assert view.lines[1:3] == ["100%", "finished"]


def test_a_lost_terminal_does_not_end_the_run(clock: Clock) -> None:
    class Gone(Shown):
        def say(self, line: str, *, error: bool = False) -> None:
            raise BrokenPipeError

    run = run_of(clock, Gone())
    work(run, clock, "code", 1, "some output\n")
    run.close()
    assert log_of("code").read_text() == "some output\n"


def test_a_stage_writes_how_far_it_is_where_it_is_told_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "sft.json"
    Live(recorded=False).progress(1, 4)
    assert read_done(path) is None
    monkeypatch.setenv(PROGRESS, str(path))
    live = Live(recorded=False)
    live.part = "base"
    live.progress(1, 4)
    assert read_done(path) == Done(1, 4, "base")
    live.progress(4, 4)
    assert read_done(path) == Done(4, 4, "base"), "the last one is never left out"
    path.write_text("[1, ")
    assert read_done(path) is None
    monkeypatch.setenv("RANK", "1")
    Live(recorded=False).progress(2, 4)
    assert path.read_text() == "[1, ", "one process speaks for all"


def test_the_name_of_a_log_is_one_file_name() -> None:
    assert log_of("irft_train@r1").name == "irft_train@r1.log"
    assert log_of("folder/dvc.yaml:sft").name == "folder_dvc.yaml_sft.log"


@pytest.mark.parametrize(("terminal", "term", "kind"), [(True, "xterm", "bars"), (True, "dumb", "lines"),
                                                        (False, "xterm", "lines")])  # fmt: skip
def test_bars_are_for_terminals(terminal: bool, term: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", term)
    output = io.StringIO()
    monkeypatch.setattr(output, "isatty", lambda: terminal)
    assert kind_of(output) == kind


def test_plain_lines_go_to_the_two_streams(capsys: pytest.CaptureFixture[str]) -> None:
    view = view_of("lines")
    assert isinstance(view, Lines) and view.heartbeats
    view.say("[bold]a[/bold]")
    view.say("b", error=True)
    assert capsys.readouterr() == ("[bold]a[/bold]\n", "b\n")


def test_bars_print_what_a_stage_says_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    view = view_of("bars")
    view.draw("stage 1 of 2, 0 s elapsed", 0, 2, [Row("sft", Done(1, 4), "3 s")])
    view.say("[red]:smile: 12")
    view.draw("stage 2 of 2, 3 s elapsed", 1, 2, [])
    view.close()
    assert "[red]:smile: 12\n" in capsys.readouterr().out
