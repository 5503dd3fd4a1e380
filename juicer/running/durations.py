"""How long stages took in this folder, and what that says of the stages to come: an expected time, or none.

A stage is expected to take as long as the same work took here before: the same command with the same parameters (but
the seed, and where the graph has its inputs from) on inputs of about the same size. Rounds of one method are the same
work. A stage whose inputs another stage has yet to make counts only if that stage's work is known too. What has not
run yet takes what the plan says, on a GPU that it knows. For everything else there is no expected time, because a wrong
one is worse than none.

The times are kept in .juicer/durations.json, apart from .juicer/costs: a cost tells of the last run only, and not with
which parameters.
"""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from juicer.runtime.files import replace_text

DURATIONS = Path(".juicer/durations.json")
KEPT = 2000
"""Times that are kept, the newest."""
PATIENCE = 600.0
"""Seconds after which a plan is not waited for any more."""
TOLERANCE = 0.25
"""Share by which an input may have grown or shrunk and still be about the same size."""
SMALL = 64 * 1024
"""Bytes by which it may too: small files say nothing of how long a stage takes."""
LEFT_OUT = ("seed", "graph.", "name", "description")
"""Parameters that do not decide how long a stage takes: a key, or the beginning of one that ends in a dot."""


@dataclass(frozen=True)
class Job:
    """What a stage is to do."""

    stage: str
    work: str
    """Digest of the command and the parameters: the same for two stages that do the same with different inputs."""
    inputs: tuple[str, ...]
    """Paths of its inputs, in the order of dvc.yaml."""
    needs: tuple[str, ...]
    """The stages that make some of them."""


class Duration(BaseModel):
    """How long a stage took once."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    work: str
    sizes: tuple[int, ...]
    """Bytes of each input."""
    seconds: float


_ALL = TypeAdapter(tuple[Duration, ...])


def work_of(command: str, parameters: Mapping[str, Any]) -> str:
    """The digest by which two stages are known to do the same work.

    Args:
        command: as dvc.yaml has it, with `@key` in place of the key of a `foreach` stage.
        parameters: the values of the dotted keys that dvc.yaml lists for the stage.
    """
    deciding = {
        key: value
        for key, value in parameters.items()
        if not any(key == each or (each.endswith(".") and key.startswith(each)) for each in LEFT_OUT)
    }
    text = json.dumps([command, deciding], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read(path: Path = DURATIONS) -> tuple[Duration, ...]:
    """The times that are kept, the oldest first; none if the file is missing or damaged."""
    with suppress(OSError, ValidationError):
        return _ALL.validate_json(path.read_bytes())
    return ()


def keep(duration: Duration, path: Path = DURATIONS) -> None:
    """Keep a time, in place of the last one of the same stage and work. A full disk is no reason to fail."""
    same = (duration.stage, duration.work)
    known = [each for each in read(path) if (each.stage, each.work) != same][1 - KEPT :]
    with suppress(OSError):
        replace_text(path, _ALL.dump_json((*known, duration)).decode() + "\n")


def expected(
    jobs: Sequence[Job],
    pending: Collection[str],
    known: Sequence[Duration],
    size_of: Callable[[str], int | None],
) -> dict[str, float | None]:
    """The seconds that each pending stage is expected to take; None where that is not known.

    Args:
        jobs: all stages, each behind those that it needs.
        pending: the stages that are yet to run.
        known: times that were kept.
        size_of: bytes of an input as it is now; None if there is no such file.
    """
    found = dict[str, float | None]()
    for job in jobs:
        if job.stage not in pending:
            continue
        makers = [need for need in job.needs if need in pending]
        if any(found.get(need) is None for need in makers):
            found[job.stage] = None
            continue
        # What a stage has yet to make is as large as before, because that stage's work is.
        sizes = [None if makers and size_of(path) is None else size_of(path) for path in job.inputs]
        found[job.stage] = _expected(job, sizes, known, bool(makers))
    return found


def _expected(job: Job, sizes: Sequence[int | None], known: Sequence[Duration], unmade: bool) -> float | None:
    same = [each for each in known if each.work == job.work and len(each.sizes) == len(sizes)]
    same = [each for each in same if all(_near(was, now, unmade) for was, now in zip(each.sizes, sizes, strict=True))]
    own = [each for each in same if each.stage == job.stage]
    return (own or same)[-1].seconds if same else None


def _near(was: int, now: int | None, unmade: bool) -> bool:
    if now is None:
        return unmade
    return abs(now - was) <= max(SMALL, TOLERANCE * max(was, now))


def planned() -> dict[str, float]:
    """The seconds by stage that the plan expects on this machine's GPU; {} where it cannot say."""
    command = [sys.executable, "-m", "juicer.planning.expected"]
    with suppress(OSError, subprocess.SubprocessError, ValidationError):
        done = subprocess.run(command, capture_output=True, timeout=PATIENCE, check=True)
        return TypeAdapter(dict[str, float]).validate_json(done.stdout)
    return {}


def remaining(
    order: Sequence[str],
    needs: Mapping[str, Sequence[str]],
    left: Mapping[str, float],
    at_a_time: int,
    running: Collection[str] = (),
    fits: Callable[[str, Sequence[str]], bool] = lambda stage, running: True,
) -> float:
    """Seconds until all stages are done, `at_a_time` of them at once, each as soon as those that it needs are.

    Args:
        order: the stages in the order in which they are begun where several can be.
        left: the seconds that each unfinished stage still takes; those that are missing are done.
        running: the stages that have begun.
        fits: whether a stage can be begun beside others, of which there is at least one.
    """
    waiting = [stage for stage in order if stage in left and stage not in running]
    busy = {stage: left[stage] for stage in running if stage in left}
    now = 0.0
    while waiting or busy:
        for stage in list(waiting):
            ready = not any(need in waiting or need in busy for need in needs.get(stage, ()))
            if ready and len(busy) < at_a_time and (not busy or fits(stage, list(busy))):
                waiting.remove(stage)
                busy[stage] = now + left[stage]
        if not busy:  # it cannot be: a stage needs one that is behind it
            return now + sum(left[stage] for stage in waiting)
        first = min(busy, key=busy.__getitem__)
        now = max(now, busy.pop(first))
    return now
