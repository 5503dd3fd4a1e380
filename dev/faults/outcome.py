"""How a trial ends: right, wrong, manual or skipped, and why."""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Literal

from dev.faults.judge import judge
from dev.faults.workload import RUN, Done, Project

Verdict = Literal["right", "wrong", "manual", "skipped"]
REFUSED_AFTER = 15.0
"""Seconds in which a command has to say that a server cannot be reached, beyond those of an undisturbed run."""


@dataclass
class Outcome:
    """What came of one trial."""

    verdict: Verdict
    why: list[str] = field(default_factory=list)
    hit: str = ""
    """Where the fault struck."""

    def add(self, wrong: str) -> None:
        """Add something that is wrong."""
        self.verdict = "wrong" if self.verdict == "right" else self.verdict
        self.why.append(wrong)


@dataclass(frozen=True)
class Kind:
    """A kind of faults, a row of the table."""

    name: str
    trials: int
    """In the long form."""
    run: Callable[[Project, Random, int], Outcome]
    """Do one trial in a fresh copy of a template: the project, the trial's random numbers, its number in the kind."""
    template: str = "base"
    """See dev/faults/templates.py."""
    kill: bool = False
    """Whether it counts among the kills."""


class SkippedError(Exception):
    """The trial cannot be done on this machine; says why."""


def settled(
    project: Project,
    hit: str = "",
    already: list[str] | None = None,
    judged: Callable[[Project], list[str]] = judge,
) -> Outcome:
    """Run one more ordinary command and judge what is there then.

    Args:
        hit: where the fault struck.
        already: what has been found wrong before.
        judged: tells what is wrong.
    """
    wrong = list(already or [])
    again = project.call(*RUN)
    if again.code:
        wrong.append(f"the next run: {again}")
        for process in project.processes():
            process.wait(60)
        last = project.call(*RUN)
        return Outcome("manual" if last.code else "wrong", [*wrong, f"and the one after it: {last}"], hit)
    wrong += judged(project)
    return Outcome("wrong" if wrong else "right", wrong, hit)


def refusal(done: Done, seconds: float, *, alone: bool = False) -> list[str]:
    """What is wrong with how a command refused: a line on standard error, soon.

    Args:
        seconds: how soon.
        alone: whether that line has to be the only one; where DVC ran a stage, its own lines stand beside it.
    """
    lines = [line for line in done.error.splitlines() if line.strip()]
    wrong = []
    if done.hung or done.seconds > seconds:
        wrong.append(f"took {done.seconds:.0f} s to refuse, more than {seconds:.0f}")
    if not lines:
        wrong.append("refused without a word")
    if any("Traceback" in line for line in lines):
        wrong.append("refused with a traceback")
    if alone and len(lines) > 1:
        wrong.append(f"refused with {len(lines)} lines")
    if "manually remove" in done.out + done.error:
        wrong.append("advises to remove a lock by hand")
    return wrong
