"""Which stage runs when: the order of dependencies, several at a time, and the end of a run that is cut short."""

import os
import signal
import threading
import time

import pytest

from juicer.running.scheduler import Work, run

DIAMOND = Work(
    ["base", "left", "right", "top", "alone"], {"left": ["base"], "right": ["base"], "top": ["left", "right"]}
)


def test_one_at_a_time_is_the_given_order() -> None:
    assert list(run(DIAMOND, str.upper, at_a_time=1).results.items()) == [
        (name, name.upper()) for name in DIAMOND.order
    ]


def test_no_stage_begins_before_those_that_it_needs_have_ended() -> None:
    ended = list[str]()

    def do(stage: str) -> None:
        assert set(DIAMOND.needs.get(stage, ())) <= set(ended)
        ended.append(stage)

    assert not run(DIAMOND, do, at_a_time=4).failed
    assert sorted(ended) == sorted(DIAMOND.order)


def test_independent_stages_run_at_the_same_time_and_no_more_than_allowed() -> None:
    meet = threading.Barrier(2)
    busy, most, lock = 0, 0, threading.Lock()

    def do(stage: str) -> None:
        nonlocal busy, most
        with lock:
            busy += 1
            most = max(most, busy)
        if stage in ("left", "right"):
            meet.wait(60)
        with lock:
            busy -= 1

    outcome = run(Work(["left", "right", "a", "b"], {}), do, at_a_time=2)
    assert not outcome.failed
    assert most == 2


def test_the_stage_that_most_stages_wait_for_comes_first() -> None:
    work = Work(["leaf", "a", "b", "c"], {"b": ["a"], "c": ["b"]})
    meet, begun = threading.Barrier(2), list[str]()

    def do(stage: str) -> None:
        begun.append(stage)
        if stage in ("a", "leaf"):
            meet.wait(60)

    run(work, do, at_a_time=2)
    assert begun[0] == "a"


def test_light_stages_do_not_make_a_chain_longer() -> None:
    needs = {"t1": ["early"], "t2": ["t1"], "t3": ["t2"], "evaluate": ["train"], "t4": ["evaluate", "t3"]}
    order = ["early", "train", "evaluate", "t1", "t2", "t3", "t4"]

    def first(light: tuple[str, ...]) -> str:
        begun: list[str] = []
        # Nothing fits beside another stage, so that they begin one after the other.
        run(Work(order, needs, light), begun.append, at_a_time=2, fits=lambda stage, running: False)
        return begun[0]

    assert first(()) == "early"
    assert first(("t1", "t2", "t3", "t4")) == "train"


def test_after_a_failure_nothing_is_begun_and_what_runs_is_finished() -> None:
    fails = threading.Event()
    work = Work(["beside", "bad", "later"], {"later": ["beside"]})

    def do(stage: str) -> str:
        if stage == "bad":
            fails.set()
            raise ValueError("no")
        assert fails.wait(60)
        time.sleep(0.5)  # the failure is noticed after the stage that fails has set the event
        return stage

    outcome = run(work, do, at_a_time=2)
    assert list(outcome.failed) == ["bad"]
    assert outcome.results == {"beside": "beside"}
    assert "later" not in outcome.results


def test_a_stage_that_does_not_fit_waits_for_the_others_and_runs_alone() -> None:
    seen = list[tuple[str, list[str]]]()

    def fits(stage: str, running: object) -> bool:
        seen.append((stage, list(running)))  # type: ignore[call-overload]
        return False

    outcome = run(Work(["a", "b"], {}), str.upper, at_a_time=2, fits=fits)
    assert list(outcome.results) == ["a", "b"]
    assert seen[0] == ("b", ["a"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_run_after_the_running_stages(number: signal.Signals) -> None:
    before, told = signal.getsignal(number), threading.Event()

    def do(stage: str) -> None:
        os.kill(os.getpid(), number)
        assert told.wait(60)

    outcome = run(Work(["a", "b"], {"b": ["a"]}), do, at_a_time=2, stop=lambda _: told.set())
    assert outcome.told == number
    assert list(outcome.results) == ["a"]
    assert signal.getsignal(number) is before
