"""What a first recipe sets, and why: a pure function of what is known of the data, the model and the machine.

Learning rates are rules of thumb by size, each from a recipe that was run: below 30M parameters those of
recipes/quickstart.yaml, from 500M those of recipes/hh-*.yaml, and in between those of a run with a model of 135M.
"""

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from juicer.drafting.counted import counted
from juicer.drafting.measure import Measured
from juicer.runtime.errors import InputError
from juicer.settings.data import CurateSettings
from juicer.settings.sources import ColumnsSettings
from juicer.sources.lengths import Limits

SMALL, LARGE = 30e6, 500e6
"""Parameters at which the rules for the learning rates change."""
SHARES = (0.99, 0.98, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05)
"""Shares of the rows that length limits may keep, the best first."""
LEAST_KEPT = 0.05
"""Share of the rows that must fit into the model's context."""
TRIED = 64
"""Ways to part a context into prompt and response that are tried."""
SPLITS = (0.05, 0.1, 0.15, 0.2, 0.25)
"""Shares of the prompts for validation, and for reporting, that are tried in turn; half are left to train on."""
ENOUGH, FEW, LEAST = 20, 50, 20
"""Prompts that each split should have; rows below which results mean little; prompts that nearly always make splits."""
MOST_PROMPTS, MOST_PROMPTS_CPU = 1000, 300
"""Prompts of an evaluation."""
MOST_KEPT, BEST = 10_000, 0.8
"""Rows that are kept of those that are scored, and their largest share."""
SPLIT_FROM = 3000
"""Training rows from which every round of IRFT gets rows of its own."""
STEPS_AN_EPOCH = 4
"""Fewest steps of an epoch: few rows get smaller batches."""


@dataclass(frozen=True)
class Chosen:
    """A value of the recipe."""

    value: Any
    why: str = ""
    """For the comment beside it; "" for what explains itself."""


@dataclass(frozen=True)
class Rates:
    """Sizes and learning rates that fit a size of model."""

    origin: str
    batch: int
    sft: float
    matched: float
    irft_optimiser: str
    irft: float
    beta: float
    reward: float
    policy: float
    kl: float
    prompts: int
    """Prompts of a step of RFT's policy, each answered four times."""
    steps: int
    """Most steps of RFT's policy in a round."""


RATES = (
    (SMALL, Rates("for models below 30M parameters", 32, 2e-4, 8e-4, "adamw", 4e-4, 0.3, 1e-3, 4e-4, 0.2, 32, 30)),
    (LARGE, Rates("for 30M to 500M parameters", 16, 5e-5, 5e-5, "adamw", 2e-5, 0.1, 3e-5, 2e-5, 0.1, 16, 60)),
    (float("inf"), Rates("as in recipes/hh-*.yaml", 8, 1e-5, 1e-5, "rmsprop", 5e-7, 0.1, 1e-6, 1e-6, 0.05, 8, 125)),
)
SAMPLES = 4
"""Responses to each prompt in RFT."""


@dataclass(frozen=True)
class Facts:
    """All that the choices depend on."""

    name: str
    sources: Sequence[Mapping[str, str]]
    """Path and format of each source."""
    columns: ColumnsSettings
    exchange: str
    rows: int
    """Different demonstrations of all sources, perhaps estimated."""
    further_turns: int
    """Rows more that `fetch.exchange: all` gives."""
    measured: Measured
    """Of an evenly spread sample of them, or of all."""
    policy: str
    revision: str | None
    parameters: int
    context: int | None
    template: str
    template_why: str
    cores: int
    template_arguments: Mapping[str, Any] = field(default_factory=dict)
    scorer: str | None = None
    scorer_kind: str = "none"
    scorer_revision: str | None = None
    gpus: int = 0
    has_bf16: bool = True


@dataclass(frozen=True)
class Choices:
    """The recipe."""

    values: Mapping[str, Chosen]
    """By dotted key, in the order of the recipe."""
    notes: tuple[str, ...] = ()
    """What the user has to know."""
    kept: float = 1.0
    """Share of the rows that the length limits keep."""

    def value(self, key: str) -> Any:
        """The value under a dotted key; None if the recipe does not set it."""
        return self.values[key].value if key in self.values else None

    def changed(self, values: Mapping[str, Chosen], *notes: str) -> "Choices":
        """The choices with other values, which are put beside their section, and further notes."""
        merged = dict(self.values)
        for key, chosen in values.items():
            merged[key] = chosen
        return replace(self, values=merged, notes=(*self.notes, *notes))

    def without(self, *keys: str) -> "Choices":
        """The choices without some values."""
        return replace(self, values={key: chosen for key, chosen in self.values.items() if key not in keys})


def rates_for(parameters: int) -> Rates:
    """The sizes and learning rates for a model of so many parameters."""
    return next(rates for below, rates in RATES if parameters < below)


def choose(facts: Facts, share: float = SHARES[0]) -> Choices:
    """The recipe for what is known, whatever memory it needs.

    Args:
        share: largest share of the rows that the length limits keep.

    Raises:
        InputError: no row fits into the model's context, or there are too few rows for three splits.
    """
    if not facts.measured.rows:
        reasons = ", ".join(f"{rows} x {reason}" for reason, rows in facts.measured.unsuitable.items())
        raise InputError(f"the template takes none of the rows ({reasons})", do="use another model, or change the rows")
    prompt, response, kept = limits_of(facts.measured, facts.context, share)
    fitting = facts.measured.fitting(prompt, response)
    sampled = len(facts.measured.rows) + sum(facts.measured.unsuitable.values())
    scale = max(1.0, facts.rows / sampled)
    shares, splits = shares_of(fitting, scale)
    train, rates = round(splits["train"] * scale), rates_for(facts.parameters)
    notes = [*_notes(facts, share, kept, splits)]
    values = {
        **_head(facts),
        **_compute(facts),
        **_fetch(facts),
        **_template(facts, prompt, response, kept),
        **_models(facts),
        **_curate(facts, shares, splits, scale, train),
        **_sft(facts, rates, train),
        **_irft(facts, rates, train),
        **_rft(facts, rates, train),
        **_evaluation(facts, splits, scale),
    }
    return Choices(values, tuple(notes), kept)


def limits_of(measured: Measured, context: int | None, share: float) -> tuple[int, int, float]:
    """Limits of prompt and response that fit into a context, and the share of the rows that they keep.

    Raises:
        InputError: hardly a row fits.
    """
    statistics, longest = measured.statistics, context or 2**31
    found = statistics.keeping(share)
    if found.prompt + max(2, found.response) > longest:
        found = _parts_of(longest, measured)
    prompt, response = found.prompt, max(2, found.response)
    rounded = -(-prompt // 8) * 8, -(-response // 8) * 8
    prompt, response = rounded if sum(rounded) <= longest else (prompt, response)
    kept = 1 - statistics.too_long(Limits(prompt=prompt, response=response))
    if kept < LEAST_KEPT:
        lengths = sorted(row.prompt + row.response for row in measured.rows)
        half = f"half of them have {lengths[len(lengths) // 2]:,} tokens or more"
        what = f"the rows do not fit into the model's context of {context:,} tokens: {half}"
        raise InputError(what, where="--model", do="use a model with a longer context, or shorter rows")
    return prompt, response, kept


def _parts_of(longest: int, measured: Measured) -> Limits:
    """The parts of a context, for prompts and responses, in which most rows fit."""
    prompts = sorted({row.prompt for row in measured.rows if row.prompt <= longest - 2}) or [1]
    tried = sorted({prompts[place * (len(prompts) - 1) // TRIED] for place in range(TRIED + 1)})
    parts = [Limits(prompt=prompt, response=longest - prompt) for prompt in tried]
    best = min(parts, key=measured.statistics.too_long)
    return Limits(prompt=best.prompt, response=max(measured.statistics.within(best).responses, default=2))


def shares_of(measured: Measured, scale: float) -> tuple[CurateSettings, Mapping[str, int]]:
    """Shares for validation and reporting that give each split enough prompts, and the rows of each split.

    Args:
        scale: rows for which each of those measured stands.

    Raises:
        InputError: a split would be empty; names the number of rows that are needed.
    """
    different = len({row.split_hash for row in measured.rows if not row.held_out})
    prompts = different * scale
    enough, usable = ENOUGH / scale, None
    for share in (_round(max(0.001, MOST_PROMPTS / prompts)), *SPLITS) if prompts > 20 * MOST_PROMPTS else SPLITS:
        shares = CurateSettings(validation_share=share, held_out_share=0.0 if measured.source_holds_out else share)
        splits = measured.splits(shares)
        if min(splits.values()):
            usable = shares, splits
        reported = ("validation",) if measured.source_holds_out else ("validation", "held_out")
        if min(splits.values()) and all(splits[name] >= enough for name in reported):
            break
    if usable is None:
        needed = "curate needs rows to train on, to choose by and to report on"
        rows, verb = counted(len(measured.rows), "usable row"), "is" if len(measured.rows) == 1 else "are"
        what = f"{rows} with {counted(different, 'different prompt')} {verb} too few: {needed}"
        # Hashes of the prompts decide the splits, so that no number makes sure of three.
        raise InputError(what, where="--data", do=f"give at least {max(LEAST, 2 * different)} different prompts")
    return usable


def _round(share: float) -> float:
    return float(f"{share:.1g}")


def batch_of(wanted: int, rows: int, processes: int) -> int:
    """A batch that leaves an epoch some steps, as a multiple of the processes."""
    batch = wanted
    while batch > 1 and rows < batch * STEPS_AN_EPOCH:
        batch //= 2
    return -(-batch // processes) * processes


def processes_of(facts: Facts) -> int:
    """One process for each GPU, and one for a model so small that several only wait for each other."""
    return facts.gpus if facts.gpus > 1 and facts.parameters >= SMALL else 1


def _notes(facts: Facts, share: float, kept: float, splits: Mapping[str, int]) -> list[str]:
    notes = []
    if not facts.measured.exact:
        notes.append(
            f"the tokenizer of {facts.policy} is not here: lengths are estimated, 1 token for 3 bytes, and a chat "
            "template of its own is not known; run this again with a network, or with the model's folder"
        )
    if kept < share - 0.005:
        notes.append(
            f"the limits drop {1 - kept:.0%} of the rows, because the model's context is {facts.context:,} tokens"
        )
    if bad := sum(facts.measured.unsuitable.values()):
        reasons = ", ".join(f"{rows} {reason}" for reason, rows in sorted(facts.measured.unsuitable.items()))
        notes.append(f"{bad} of the {bad + len(facts.measured.rows)} rows measured will be dropped: {reasons}")
    if facts.rows < FEW:
        notes.append(
            f"{facts.rows} rows are few: the run shows that it works, and no more; for results {FEW} is the least, "
            "and 1,000 is better"
        )
    elif min(splits["validation"], splits["held_out"]) < ENOUGH:
        few = f"{splits['validation']} validation and {splits['held_out']} held-out rows"
        notes.append(f"{few} are few: differences between models will not show; {ENOUGH} is the least")
    return notes


def _head(facts: Facts) -> dict[str, Chosen]:
    files = ", ".join(source["path"].rstrip("/").rpartition("/")[2] for source in facts.sources)
    return {
        "name": Chosen(facts.name, "also the name of the registered model"),
        "description": Chosen(f"{facts.policy.rstrip('/').rpartition('/')[2]} on {files}."),
        "seed": Chosen(0, "another seed is another run: the difference between two is noise"),
    }


def _compute(facts: Facts) -> dict[str, Chosen]:
    processes = processes_of(facts)
    old = {} if facts.has_bf16 else {"compute.precision": Chosen("fp32", "this GPU does not compute in bf16")}
    if processes > 1:
        sharded = importlib.util.find_spec("deepspeed") is not None
        why = (
            "optimiser state and gradients are shared out" if sharded else "deepspeed, which 2 needs, is not installed"
        )
        return {
            **old,
            "compute.processes": Chosen(processes, "one for each GPU"),
            "compute.zero_stage": Chosen(2 if sharded else 0, why),
        }
    if facts.gpus:
        return old
    return {"compute.threads": Chosen(facts.cores, "the cores here; the number decides the last bits of results")}


def _fetch(facts: Facts) -> dict[str, Chosen]:
    formats = {source["format"] for source in facts.sources if source["format"]}
    named, one = facts.columns.named, len(facts.sources) == 1
    values = {"fetch.source": Chosen(facts.sources[0]["path"])}
    if not one:
        same = named or len(formats) < 2
        values["fetch.source"] = Chosen([each["path"] if same else dict(each) for each in facts.sources])
    if len(formats) == 1 and not named:
        values["fetch.format"] = Chosen(formats.pop(), "recognised by the keys of the rows")
    columns = facts.columns.model_dump(exclude_defaults=True)
    if columns:
        values["fetch.columns"] = Chosen(columns)
    more = (
        f"; all: up to {counted(facts.further_turns, 'row')} more, one for each earlier answer"
        if facts.further_turns
        else ""
    )
    if more or facts.exchange != "last":
        values["fetch.exchange"] = Chosen(
            facts.exchange, f"the answers that are learnt{more if facts.exchange == 'last' else ''}"
        )
    values["fetch.licence"] = Chosen("unknown", "write it here: it is copied to the provenance")
    return values


def _template(facts: Facts, prompt: int, response: int, kept: float) -> dict[str, Chosen]:
    statistics = facts.measured.statistics
    estimated = "" if facts.measured.exact else "about "
    longest = {"prompts": max(statistics.prompts), "responses": max(statistics.responses)}
    values = {"template.name": Chosen(facts.template, facts.template_why)}
    if facts.template_arguments:
        values["template.arguments"] = Chosen(dict(facts.template_arguments), "answers are trained without thoughts")
    keep = f"the two limits keep {estimated}{kept:.1%} of the rows" if kept < 1 else "the limits keep all rows"
    values["template.max_prompt_tokens"] = Chosen(prompt, f"the longest has {estimated}{longest['prompts']:,}; {keep}")
    values["template.max_response_tokens"] = Chosen(response, f"the longest has {estimated}{longest['responses']:,}")
    return values


def _models(facts: Facts) -> dict[str, Chosen]:
    values = {"policy.model": Chosen(facts.policy)}
    if facts.revision:
        values["policy.revision"] = Chosen(facts.revision)
    none = "none was given: rows stay in their order; a pairwise judge (docs/judge.md) or votes can judge responses"
    values["scorer.kind"] = Chosen(facts.scorer_kind, none if facts.scorer is None else "")
    if facts.scorer is not None:
        values["scorer.model"] = Chosen(facts.scorer)
        if facts.scorer_revision:
            values["scorer.revision"] = Chosen(facts.scorer_revision)
    return values


def _curate(
    facts: Facts, shares: CurateSettings, splits: Mapping[str, int], scale: float, train: int
) -> dict[str, Chosen]:
    if facts.scorer is None:
        keep = Chosen(None, "all, because there is no scorer to choose by")
    else:
        best = min(MOST_KEPT, max(1, int(BEST * train)))
        keep = Chosen(best, f"the best by the scorer, of about {train:,} training rows")
    about = "about " if scale > 1 else ""
    rows = {name: f"{about}{counted(round(count * scale), 'row')}" for name, count in splits.items()}
    held_out = Chosen(shares.held_out_share, f"{rows['held_out']} to report on")
    if facts.measured.source_holds_out:
        held_out = Chosen(0.0, f"the source holds out {rows['held_out']} itself")
    return {
        "curate.keep": keep,
        "curate.validation_share": Chosen(shares.validation_share, f"{rows['validation']} to choose rounds by"),
        "curate.held_out_share": held_out,
    }


def _sft(facts: Facts, rates: Rates, train: int) -> dict[str, Chosen]:
    batch = batch_of(rates.batch, train, processes_of(facts))
    tried = "one rate; with several, the best on validation is kept"
    return {
        "sft.batch_size": Chosen(batch, f"{counted(-(-train // batch), 'step')} an epoch"),
        "sft.optimiser": Chosen({"name": "adamw", "learning_rate": rates.sft}, f"a start {rates.origin}"),
        "sft_matched.learning_rates": Chosen([rates.matched], tried),
    }


def _irft(facts: Facts, rates: Rates, train: int) -> dict[str, Chosen]:
    split = train >= SPLIT_FROM
    why = (
        "every round has a third of the rows"
        if split
        else f"fewer than {SPLIT_FROM:,} rows: every round has all of them"
    )
    optimiser = {"name": rates.irft_optimiser, "learning_rate": rates.irft}
    return {
        "irft.rounds": Chosen(3, "T; 0 switches IRFT off"),
        "irft.slice": Chosen("split" if split else "all", why),
        "irft.training.epochs": Chosen(1.0, "over the pairs of a round; more move further from SFT"),
        "irft.training.batch_size": Chosen(batch_of(rates.batch, train, processes_of(facts)), "as SFT's"),
        "irft.training.beta": Chosen(rates.beta, f"a start {rates.origin}"),
        "irft.training.optimiser": Chosen(optimiser, f"a start {rates.origin}"),
    }


def _rft(facts: Facts, rates: Rates, train: int) -> dict[str, Chosen]:
    processes = processes_of(facts)
    prompts = max(2, batch_of(rates.prompts, train, processes))
    steps = max(STEPS_AN_EPOCH, min(rates.steps, -(-train // prompts)))
    return {
        "rft.rounds": Chosen(1, "T; 0 switches RFT off"),
        "rft.reward.batch_size": Chosen(batch_of(rates.batch, train, processes), "as SFT's"),
        "rft.reward.optimiser": Chosen({"learning_rate": rates.reward}, f"a start {rates.origin}"),
        "rft.policy.steps": Chosen(steps, f"{steps * prompts * SAMPLES:,} sampled responses"),
        "rft.policy.prompts_per_step": Chosen(prompts, f"each answered {SAMPLES} times"),
        "rft.policy.kl_coefficient": Chosen(rates.kl, "larger keeps the policy closer to SFT"),
        "rft.policy.optimiser": Chosen({"learning_rate": rates.policy}, f"a start {rates.origin}"),
    }


def _evaluation(facts: Facts, splits: Mapping[str, int], scale: float) -> dict[str, Chosen]:
    there = round(scale * max(splits["validation"], splits["held_out"]))
    most = MOST_PROMPTS if facts.gpus else MOST_PROMPTS_CPU
    why = "at most, of each split: all of them" if there <= most else f"at most, of {there:,} in a split"
    return {"evaluation.prompts": Chosen(max(1, min(there, most)), why)}
