"""The jobs of a comparison of methods: each method at each seed of each variant, then the controls of that seed."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from juicer.claim.comparing import Entrants
from juicer.claim.copies import (
    Job,
    NotYet,
    Plan,
    check_overrides,
    chosen,
    digest_of,
    files,
    folder_of,
    loaded,
    seeds_of,
)
from juicer.claim.run import is_up_to_date, models_of
from juicer.evaluation.results import EvaluatedModel
from juicer.recipe.activation import load
from juicer.recipe.checks import check_single
from juicer.runtime.errors import InputError
from juicer.settings.methods import MethodsSettings

FIRST, OTHERS, CONTROLS = 0, 1, 2
"""Turns: the first method of a seed runs what all have in common, the others restore that, the controls come last."""
AS_METHOD = ("sft_matched.enabled=false",)
"""Last override of a method."""
AS_CONTROL = ("irft.rounds=0", "rft.rounds=0", "sft_matched.enabled=true")
"""Last overrides of a control."""
SOME_STEPS = "sft_matched.steps=1"
"""First override of a control, so that its recipe has something to train. The number is set when the methods have
ended."""


@dataclass(frozen=True)
class Budget:
    """What a control has to be trained for at least."""

    steps: int
    response_tokens: int


@dataclass(frozen=True)
class MethodsPlan(Plan):
    """What a comparison of methods runs."""

    command: ClassVar[str] = "compare-methods"

    settings: MethodsSettings
    methods: dict[str, list[str]]
    """Those that are compared: all of the recipe, or those that were asked for."""
    known: list[Job]
    """The jobs of all methods of the recipe, also of those that were not asked for: a control is to equal them all."""

    @property
    def entrants(self) -> Entrants:
        """What is compared with what."""
        controls = tuple(self.settings.controls)
        return Entrants(tuple(self.methods), controls, (*self.methods, *controls[1:]))

    def settled(self, job: Job) -> Job:
        """A control with the budget that its methods have used; a method as it is.

        Raises:
            NotYet: none of the methods has finished.
            InputError: the results of one are damaged.
        """
        if job.turn != CONTROLS:
            return job
        budget = budget_of(
            model
            for each in self.known
            if (each.variant, each.seed) == (job.variant, job.seed) and each.is_measured
            for model in models_of(each, discarded=True).values()
        )
        if budget is None:
            raise NotYet("no method has finished whose steps it could match", where=job.name)
        own = job.recipe.sft_matched
        steps, tokens = (
            max(budget.steps, own.steps or 0),
            max(budget.response_tokens, own.response_tokens or 0),
        )
        control = own.model_copy(update={"steps": steps, "response_tokens": tokens or None})
        return replace(job, recipe=job.recipe.model_copy(update={"sft_matched": control}))


def budget_of(models: Iterable[EvaluatedModel]) -> Budget | None:
    """The most steps and the most response tokens since SFT that any of the models was trained for.

    The last round of a method has used most: its record adds up all rounds before. None where no model was trained
    since SFT.
    """
    since = [each.training for each in models if each.method not in ("base", "sft")]
    used = [each for each in since if each is not None and each.total_steps]
    if not used:
        return None
    return Budget(max(each.total_steps for each in used), max(each.total_response_tokens for each in used))


def plan_methods(
    path: Path,
    overrides: Sequence[str],
    seeds: Sequence[int],
    variants: Sequence[str],
    methods: Sequence[str],
    work: Path | None,
    *,
    tiny: bool = False,
) -> MethodsPlan:
    """Check every run of a comparison, before the first one starts.

    Args:
        path: the recipe's file.
        overrides: changes of it, for all methods and controls.
        seeds: empty means those of the recipe.
        variants: names; empty means all.
        methods: names; empty means all.
        work: where the runs are; None means .juicer/methods/RECIPE.
        tiny: whether the recipe is scaled down first.

    Raises:
        InputError: the recipe has no such section, variant or method, or refuses one of the runs.
    """
    check_overrides(overrides)
    recipe, _ = load(path, overrides, tiny=tiny)
    if recipe.methods is None:
        do = "add one, see: juicer describe methods"
        raise InputError("the recipe has no section methods, so there is nothing to compare", where=str(path), do=do)
    settings: MethodsSettings = recipe.methods
    wanted = chosen(variants, settings.variants, "variant", path)
    compared = chosen(methods, settings.compared, "method", path)
    numbers = seeds_of(seeds, settings.seeds)
    folder = folder_of(work or Path(".juicer/methods", recipe.name))
    first = next(iter(compared))

    def job(variant: str, seed: int, name: str, words: Sequence[str], turn: int) -> Job:
        where = f"{path}: methods.{'controls' if turn == CONTROLS else 'compared'}.{name}"
        whole = [*settings.shared, *overrides, *settings.variants[variant], *words]
        if turn == CONTROLS and not recipe.sft_matched.steps:
            whole = [SOME_STEPS, *whole]
        made, graph = loaded(path, whole, seed, where, tiny=tiny)
        if turn != CONTROLS:
            check_single(made, where)
        return Job(variant, seed, folder / variant / name / f"seed-{seed}", made, graph, name, turn)

    jobs, known = list[Job](), list[Job]()
    for variant in wanted:
        for seed in numbers:
            for name, words in settings.compared.items():
                try:
                    made = job(variant, seed, name, [*words, *AS_METHOD], FIRST if name == first else OTHERS)
                except InputError:
                    # With these changes a method that was not asked for cannot have run either.
                    if name in compared:
                        raise
                    continue
                known.append(made)
                jobs += [made] if name in compared else []
            jobs += [
                job(variant, seed, name, [*words, *AS_CONTROL], CONTROLS) for name, words in settings.controls.items()
            ]
    return MethodsPlan(path, recipe, wanted, numbers, folder, jobs, settings, compared, known)


def announced(plan: MethodsPlan) -> list[str]:
    """The runs of a plan, and which of them have finished."""
    code = digest_of(files(plan.work))
    counts = {
        "variant": len(plan.variants),
        "method": len(plan.methods),
        "control": len(plan.settings.controls),
        "seed": len(plan.seeds),
        "run": len(plan.jobs),
    }
    counted = ", ".join(f"{number} {name}{'s' if number != 1 else ''}" for name, number in counts.items())
    lines = [f"{plan.recipe.name}: {counted} in {plan.work}"]
    overrides = {**plan.methods, **plan.settings.controls}
    finished = [job for job in plan.jobs if is_up_to_date(plan, job, code)]
    for variant, changes in plan.variants.items():
        lines.append(f"  {variant}: {' '.join(changes) or 'the recipe as it is'}")
        for name, words in overrides.items():
            mine = [job for job in plan.jobs if (job.variant, job.method) == (variant, name)]
            states = [f"{job.seed} (finished)" if job in finished else str(job.seed) for job in mine]
            lines.append(f"    {name}: seeds {', '.join(states)}; {' '.join(words) or 'nothing else changed'}")
    return [
        *lines,
        f"{len(finished)} of {len(plan.jobs)} runs have finished. A control starts after the methods of its seed, with "
        "the steps and response tokens of the one that used most.",
    ]
