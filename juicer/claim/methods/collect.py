"""From the finished jobs of a comparison of methods to its results."""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from juicer.claim.comparing import CONTROL, Seed, compare, gains, measured, primary
from juicer.claim.copies import Job, NotYet, digest_of, files
from juicer.claim.measures import BY_KEY
from juicer.claim.methods.plan import CONTROLS, Budget, MethodsPlan, budget_of
from juicer.claim.methods.results import Effort, MethodComparison
from juicer.claim.methods.verdict import headline, verdicts_of
from juicer.claim.run import instruments, models_of, processor, samples_of, versions
from juicer.evaluation.results import EvaluatedModel
from juicer.recipe.graph import SFT
from juicer.reporting.costs import completed, gather
from juicer.runtime.errors import InputError
from juicer.runtime.files import read_yaml


@dataclass(frozen=True)
class Group:
    """The finished jobs of one variant and seed, of which the first control is one."""

    seed: int
    jobs: Mapping[str, Job]
    """By method or control."""


def collect(plan: MethodsPlan, samples: int) -> MethodComparison:
    """What the finished jobs found, in one document.

    Args:
        plan: all jobs.
        samples: most responses of each model to show.

    Raises:
        InputError: no seed has both the first control and a method.
    """
    entrants = plan.entrants
    reference = entrants.controls[0]
    measured_jobs = {variant: _measured(plan, variant) for variant in plan.variants}
    groups = {
        variant: found
        for variant, jobs in measured_jobs.items()
        if (found := [group for seed in plan.seeds if (group := _group(jobs, seed, reference)) is not None])
    }
    if not groups:
        do = f"run them: juicer {plan.command} {plan.path}"
        what = f"no seed has finished with {reference} and a method"
        raise InputError(what, where=str(plan.work), do=do)
    variants = {
        variant: [Seed(each.seed, joined(_models(each.jobs)), reference, plan.recipe.choice.criteria) for each in found]
        for variant, found in groups.items()
    }
    everywhere = [seed for seeds in variants.values() for seed in seeds]
    # One metric: each further one, and each further world, would make every verdict harder to reach.
    metrics = primary(everywhere)[:1]
    compared = [each for variant, seeds in variants.items() for each in compare({variant: seeds}, metrics, entrants)]
    jobs = [job for found in groups.values() for each in found for job in each.jobs.values()]
    names = (*entrants.methods, *entrants.controls)
    finished = {
        (variant, name): {job.seed for job in measured_jobs[variant] if job.method == name}
        for variant in groups
        for name in names
    }
    verdicts = verdicts_of(compared, metrics[0], len(plan.seeds)) if metrics else []
    seconds, used = _seconds(groups), _used(groups)
    return MethodComparison(
        recipe=plan.recipe.name,
        variants={name: plan.variants[name] for name in variants},
        shared=plan.settings.shared,
        methods=plan.methods,
        controls=plan.settings.controls,
        seeds={name: [each.seed for each in seeds] for name, seeds in variants.items()},
        planned=list(plan.seeds),
        missing={
            variant: {
                name: left
                for name in names
                if (left := [seed for seed in plan.seeds if seed not in finished[variant, name]])
            }
            for variant in groups
        },
        alone={
            variant: left
            for variant, those in groups.items()
            if (left := _without_control(plan, variant, finished, [each.seed for each in those]))
        },
        starts={variant: all(_start_together(each) for each in those) for variant, those in groups.items()},
        processor=processor(),
        versions=versions(jobs, digest_of(files(plan.work))),
        primary=metrics,
        instruments=instruments(variants),
        compared=compared,
        efforts=[
            effort
            for variant, seeds in variants.items()
            for name in names
            if (effort := effort_of(variant, name, seeds, used, seconds)) is not None
        ],
        gains=gains(variants, [*metrics, *(["oracle"] if measured(BY_KEY["oracle"], everywhere) else [])], entrants),
        verdicts=verdicts,
        headlines=[
            headline(
                variant,
                [each for each in compared if each.variant == variant],
                [each for each in verdicts if each.variant == variant],
                reference,
            )
            for variant in variants
        ],
        samples_seed=everywhere[0].seed,
        samples={name: samples_of(seeds[:1], samples, entrants) for name, seeds in variants.items()},
    )


def _group(jobs: Sequence[Job], seed: int, reference: str) -> Group | None:
    """The finished jobs of a seed; None without a method or without the first control."""
    found = {job.method: job for job in jobs if job.seed == seed and job.method is not None}
    methods = [job for job in found.values() if job.turn != CONTROLS]
    return Group(seed, found) if methods and reference in found else None


def _measured(plan: MethodsPlan, variant: str) -> list[Job]:
    """The jobs of a variant that have finished, as they were run.

    A control that has not got the budget of its methods is not finished.
    """
    found = []
    for job in plan.jobs:
        if job.variant == variant:
            with suppress(NotYet):  # without a method there is no budget
                found.append(plan.settled(job))
    return [job for job in found if job.is_measured]


def _without_control(
    plan: MethodsPlan, variant: str, finished: Mapping[tuple[str, str], set[int]], compared: Sequence[int]
) -> list[int]:
    """The seeds in which a method has finished, but not the first control, so that none is compared."""
    having = set[int]().union(*(finished[variant, name] for name in plan.entrants.methods))
    return [seed for seed in plan.seeds if seed in having and seed not in compared]


def _models(jobs: Mapping[str, Job]) -> dict[str, tuple[bool, dict[str, EvaluatedModel]]]:
    return {name: (job.turn == CONTROLS, models_of(job)) for name, job in jobs.items()}


def joined(runs: Mapping[str, tuple[bool, Mapping[str, EvaluatedModel]]]) -> dict[str, EvaluatedModel]:
    """The models of all runs of a variant and seed, under the names of their methods.

    Args:
        runs: by method or control, whether it is a control, and its models. The base model and SFT are the same in all
            of them, and are taken from the first one.

    Raises:
        InputError: a run has not what it is for.
    """
    first = next(iter(runs.values()))[1]
    found = {name: first[name] for name in ("base", "sft") if name in first}
    for method, (is_control, models) in runs.items():
        own = [each for each in models.values() if each.method not in ("base", "sft", CONTROL)]
        if is_control:
            own = [models[CONTROL]] if CONTROL in models else []
        if not own:
            raise InputError(f"the run of {method} has no model of its own", do="run it again")
        for model in own:
            name = method if is_control else f"{method}-r{model.round}"
            found[name] = model.model_copy(update={"name": name, "method": method})
    return found


def effort_of(
    variant: str,
    name: str,
    seeds: Sequence[Seed],
    used: Mapping[tuple[str, int, str], Budget],
    seconds: Mapping[tuple[str, int, str], float | None],
) -> Effort | None:
    """What a method or control was trained for; None if no seed has it.

    Args:
        variant: the variant.
        name: the method or control.
        seeds: the finished seeds of the variant.
        used: by variant, seed and method, what it was trained for since SFT.
        seconds: by variant, seed and method.
    """
    having = [each for each in seeds if each.rounds(name)]
    if not having:
        return None
    own = [used[variant, each.seed, name] for each in having]
    control = [used[variant, each.seed, each.reference] for each in having]

    def share(values: Sequence[int], others: Sequence[int]) -> float | None:
        return round(sum(values) / sum(others), 4) if sum(values) and sum(others) else None

    steps = [each.steps for each in own]
    tokens = [each.response_tokens for each in own]
    return Effort(
        variant=variant,
        method=name,
        steps=steps,
        response_tokens=tokens,
        seconds=[seconds.get((variant, each.seed, name)) for each in having],
        steps_share=share(steps, [each.steps for each in control]),
        tokens_share=share(tokens, [each.response_tokens for each in control]),
    )


def _used(groups: Mapping[str, Sequence[Group]]) -> dict[tuple[str, int, str], Budget]:
    """What each job was trained for since SFT, rounds that it tried and discarded among it."""
    return {
        (variant, group.seed, name): budget_of(models_of(job, discarded=True).values()) or Budget(0, 0)
        for variant, those in groups.items()
        for group in those
        for name, job in group.jobs.items()
    }


def _seconds(groups: Mapping[str, Sequence[Group]]) -> dict[tuple[str, int, str], float | None]:
    """How long the own stages of each job took: those that not all jobs of its variant and seed have.

    A stage that was restored counts with what it took where it ran, so that a round which two methods share counts for
    both.
    """
    jobs = [job for found in groups.values() for each in found for job in each.jobs.values()]
    rows = {job.folder: gather(job.folder) for job in jobs}
    whole = {folder: completed(own, folder, list(rows)) for folder, own in rows.items()}
    found: dict[tuple[str, int, str], float | None] = {}
    for variant, those in groups.items():
        for group in those:
            stages = {name: {row.stage for row in whole[job.folder]} for name, job in group.jobs.items()}
            common = set.intersection(*stages.values())
            for name, job in group.jobs.items():
                known = [
                    row.cost.seconds
                    for row in whole[job.folder]
                    if row.stage not in common and row.cost is not None and row.cost.seconds is not None
                ]
                found[variant, group.seed, name] = round(math.fsum(known), 1) if known else None
    return found


def _start_together(group: Group) -> bool:
    """Whether all jobs have the same SFT weights, by dvc.lock."""
    starts = {_start(job.folder) for job in group.jobs.values()}
    return len(starts) == 1 and None not in starts


def _start(folder: Path) -> str | None:
    lock = folder / "dvc.lock"
    stages = (read_yaml(lock).get("stages") or {}) if lock.is_file() else {}
    outputs = [out for stage in stages.values() for out in stage.get("outs", [])]
    return next((out.get("md5") for out in outputs if out.get("path") == SFT), None)
