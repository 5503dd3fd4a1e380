"""Promote a registered version to champion if it passes the gates, or roll back to the previous champion.

gates.py decides what may be promoted, aliases.py moves the aliases. This module has the order of steps: judge, upload
the weights, then, holding the lock, judge again if the champion has changed, and move.
"""

import contextlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from juicer.registry.aliases import CHAMPION, NOT_MOVED, PREVIOUS, Places
from juicer.registry.gates import (
    BENCHMARKS,
    Judged,
    PromotionSettings,
    Verdict,
    as_markdown,
    evidence_of,
    judge,
    judge_code,
)
from juicer.registry.packaging import card_of, package
from juicer.registry.provenance import user
from juicer.registry.restore import weights_of
from juicer.registry.versions import Registry, Version
from juicer.runtime.errors import InputError
from juicer.runtime.files import read_yaml

GATES = Path("mlflow/promotion.yaml")


@dataclass(frozen=True)
class Decision:
    """The outcome of a promotion or a rollback."""

    title: str
    before: Places
    after: Places
    """Where the aliases point now; in a dry run, where they would."""
    dry_run: bool
    verdicts: list[Verdict] = field(default_factory=list)

    @property
    def refused(self) -> list[Verdict]:
        """The gates that failed."""
        return [verdict for verdict in self.verdicts if verdict.result == "failed"]

    @property
    def evidence(self) -> str:
        """By what it was found to be better."""
        return evidence_of(self.verdicts)

    @property
    def line(self) -> str:
        """The outcome in one line."""
        if self.after == self.before:
            return f"{self.title}: it is the champion already"
        if self.refused:
            return f"{self.title}: refused by {len(self.refused)} of {len(self.verdicts)} gates"
        moved = ", ".join(f"{alias} {_place(self.before, alias)} -> {_place(self.after, alias)}" for alias in ALIASES)
        return f"{self.title}: {'would move' if self.dry_run else 'moved'} {moved}"

    def __str__(self) -> str:
        shown = self.refused or [each for each in self.verdicts if each.result == "passed"]
        better = [] if self.refused or not self.verdicts else [f"  better by: {self.evidence}"]
        return "\n".join([self.line, *(f"  {each.result}: {each.gate}: {each.numbers}" for each in shown), *better])

    def as_markdown(self) -> str:
        """For an artifact of a run."""
        if not self.verdicts:
            return f"{self.line}\n"
        return f"{self.line}\n\nEvidence that it is better: {self.evidence}.\n\n{as_markdown(self.verdicts)}\n"


ALIASES = (CHAMPION, PREVIOUS)


def promote(registry: Registry, version: Version, gates: Path = GATES, *, dry_run: bool = False) -> Decision:
    """Make a version the champion if it passes every gate.

    Raises:
        InputError: a gated metric is missing or not comparable, or MLflow fails.
    """
    settings = PromotionSettings.parse(read_yaml(gates), str(gates))
    aliases = registry.aliases_of(version.name)
    before = aliases.now()
    decision = _decision(registry, version, settings, before, dry_run)
    if dry_run or decision.after == before:
        return decision
    if not decision.refused:
        gates_passed = f"Evidence that it is better: {decision.evidence}.\n\n{as_markdown(decision.verdicts)}"
        _upload(registry, version, gates_passed)
        with aliases.locked():
            now = aliases.now()
            if now != before:
                decision = _decision(registry, version, settings, now, dry_run)
            if decision.after == now:
                return decision
            if not decision.refused:
                earlier = [*aliases.earlier(), now[CHAMPION]] if CHAMPION in now else []
                aliases.move(decision.after, earlier, _audit(registry, version, decision))
                return decision
    _audit(registry, version, decision)
    return decision


def roll_back(registry: Registry, name: str, *, dry_run: bool = False) -> Decision:
    """Make the version that `previous` points to the champion again.

    Raises:
        InputError: there is no champion or no earlier one, or MLflow fails.
    """
    aliases = registry.aliases_of(name)
    with aliases.locked():
        before = aliases.now()
        if not (earlier := aliases.earlier()):
            what = "there is no champion" if CHAMPION not in before else "no champion was there before this one"
            raise InputError(what, where=name)
        *earlier, number = earlier
        version = registry.find(f"models:/{name}/{number}")
        after = {CHAMPION: number} | ({PREVIOUS: earlier[-1]} if earlier else {})
        decision = Decision(f"rollback of {name} {before.get(CHAMPION)}", before, after, dry_run)
        if not dry_run:
            aliases.move(after, earlier, _audit(registry, version, decision))
        return decision


def judge_version(
    registry: Registry, version: Version, settings: PromotionSettings, champion: str | None
) -> list[Verdict]:
    """Check a version against the gates, by the tags and metrics that MLflow holds.

    Args:
        champion: number of the champion, None if there is none.

    Raises:
        InputError: metrics are missing, or were measured on other prompts.
    """
    there = registry.find(f"models:/{version.name}/{champion}") if champion else None
    if there and there.tags.get("evaluated_on") != version.tags.get("evaluated_on"):
        raise InputError(
            f"{there.uri}, the champion, was evaluated on other prompts, by another scorer or with other parameters",
            where=version.uri,
            do=f"evaluate it anew, here: juicer evaluate {there.uri}",
        )
    # A run has a benchmark's score without its standard error, which on the same questions is close to the version's.
    errors = {name: version.metrics[name] for each in BENCHMARKS if (name := f"{each}_sem") in version.metrics}
    base, sft = (_reference(registry, version, name, errors) for name in ("base", "sft"))
    others = dict[str, Judged]()
    for name in settings.references - {"base", "sft"}:
        with contextlib.suppress(InputError):  # the recipe makes none; a gate that needs it says so
            others[name] = _reference(registry, version, name, errors)
    champion_there = _judged(registry, there) if there else None
    judged = judge(settings, _judged(registry, version), base, sft, champion_there, others)
    return [*judge_code(settings, version.uri, version.tags), *judged]


def _reference(registry: Registry, version: Version, name: str, errors: Mapping[str, float]) -> Judged:
    """A model that every recipe evaluates, as it was measured on the prompts of a version."""
    figures = registry.figures_of(version, name)
    return Judged(name, name, {**errors, **figures}, registry.per_prompt_of(version, name, figures))


def _judged(registry: Registry, version: Version) -> Judged:
    model = version.tags.get("model", "?")
    rows = registry.per_prompt_of(version, model, version.metrics)
    return Judged(f"{version.uri} ({model})", model, version.metrics, rows)


def _decision(
    registry: Registry, version: Version, settings: PromotionSettings, now: Places, dry_run: bool
) -> Decision:
    """The outcome of a promotion if the aliases are where `now` says; no change if the version is champion."""
    title = f"promotion of {version.name} {version.number} ({version.tags.get('model')})"
    if now.get(CHAMPION) == version.number:
        return Decision(title, now, now, dry_run)
    verdicts = judge_version(registry, version, settings, now.get(CHAMPION))
    replaced = {PREVIOUS: now[CHAMPION]} if CHAMPION in now else {}
    return Decision(title, now, {CHAMPION: version.number} | replaced, dry_run, verdicts)


def _upload(registry: Registry, version: Version, gates: str) -> None:
    """Put the weights and the card into MLflow, unless an earlier promotion did."""
    if registry.has_weights(version):
        return
    from juicer.models.loading import whole_folder

    card = card_of(registry, version, gates)
    with tempfile.TemporaryDirectory() as folder:
        weights = weights_of(registry, version, Path(folder) / "weights")
        with whole_folder(weights, Path(folder)) as whole:
            package(whole, version.uri, card, Path(folder) / "model")
        registry.upload(version, Path(folder) / "model", card)


def _audit(registry: Registry, version: Version, decision: Decision) -> str:
    """Record a decision as a run; returns its id. If the aliases are to move, the move ends the run."""
    tags = {
        "stage": "promotion",
        "outcome": "refused" if decision.refused else NOT_MOVED,
        "version": version.number,
        "by": user(),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        **({"evidence": decision.evidence} if decision.verdicts else {}),
    }
    tags |= {f"{alias}_before": _place(decision.before, alias) for alias in ALIASES}
    files = {"decision.md": decision.as_markdown()}
    return registry.audit(version, decision.title, tags, files, ended=bool(decision.refused))


def _place(places: Places, alias: str) -> str:
    return places.get(alias, "none")
