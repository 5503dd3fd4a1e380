"""The adapters, recomputation and sampled batches with which the plan of a recipe fits into memory.

Rows of a forward pass in training are left to `micro_batch_size: auto`, which the plan resolves.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from juicer.drafting.choices import SHARES, Choices, Chosen
from juicer.runtime.devices import GIB

SAMPLED = (128, 64, 32, 16, 8, 4, 2, 1)
"""Prompts that are decoded, or rows that are scored, at the same time, as they are tried."""
SCORED = 32
LORA = {"r": 64, "alpha": 16}
LORA_RATE = 10
"""How much larger the learning rate of SFT is where only adapters are trained."""
LEAST_SHARE, LEAST_SHARE_WITH_RFT = 0.5, 0.9
"""Shares of the rows that length limits must keep at least, for the sake of memory."""

Memory = Callable[[Choices], Mapping[str, float]]
"""Bytes per device that each stage of a recipe needs, by the stage's name in its plan."""


@dataclass(frozen=True)
class Level:
    """A way to train and sample, the fastest first."""

    recomputed: bool
    lora: bool
    sampled: int
    """Prompts that are decoded, or rows that are scored, at the same time."""


def levels() -> list[Level]:
    """Every way, the fastest first, each needing less memory than those before for at least one stage."""
    ways = ((False, False), (True, False), (True, True))
    return [Level(*ways[min(place, len(ways) - 1)], sampled) for place, sampled in enumerate(SAMPLED)]


SMALLEST = Level(recomputed=True, lora=True, sampled=1)
SECTIONS = {"sft": "sft", "irft_train": "irft.training", "rft_reward": "rft.reward", "rft_policy": "rft.policy"}
"""The section of the recipe that each stage trains by."""
SAMPLING = {"irft_generate": "irft.sampling", "rft_generate": "rft.sampling", "evaluate": "evaluation.sampling"}


def stage_of(name: str) -> str:
    """The stage of a name in a plan, `irft_train` of `irft_train@r1`; SFT's for its control."""
    return name.partition("@")[0].replace("sft_matched", "sft")


def fit(choose: Callable[[float], Choices], memory_of: Memory, limit: float, where: str) -> Choices:
    """The choices whose plan fits into `limit` bytes, trained as fast as that allows.

    Rows longer than others are given up before RFT is, up to a tenth of them; then more of them. RFT gets no LoRA.

    Args:
        choose: the choices whose length limits keep at most a share of the rows.
        where: whose memory it is, for the comments.
    """
    tried = [(share, with_rft) for with_rft in (True, False) for share in SHARES if share >= _least(with_rft)]
    for share, with_rft in tried:
        chosen = choose(share)
        if not with_rft:
            chosen = _without_rft(chosen, where)
        if max(memory_of(at_level(chosen, dict.fromkeys(stages(chosen), SMALLEST))).values()) <= limit:
            return _noted(fastest(chosen, memory_of, limit, where), share, chosen, where)
    smallest = _without_rft(choose(SHARES[0]), where)
    smallest = at_level(smallest, dict.fromkeys(stages(smallest), SMALLEST), where)
    worst = max(memory_of(smallest).items(), key=lambda stage: stage[1])
    needs = f"{worst[0]} needs {worst[1] / GIB:.1f} GiB, and {limit / GIB:.1f} GiB of {where} may be used"
    return smallest.changed({}, f"DOES NOT FIT HERE: {needs}; use a smaller model, or run it on a larger machine")


def _least(with_rft: bool) -> float:
    return LEAST_SHARE_WITH_RFT if with_rft else LEAST_SHARE


def _noted(chosen: Choices, share: float, asked: Choices, where: str) -> Choices:
    if share == SHARES[0] or asked.kept >= SHARES[0]:
        return chosen
    return chosen.changed(
        {}, f"longer limits do not fit into the memory of {where}: these keep {asked.kept:.0%} of the rows"
    )


def stages(chosen: Choices) -> list[str]:
    """The stages whose memory can be chosen."""
    used = {
        "irft": bool(chosen.value("irft.rounds")),
        "rft": bool(chosen.value("rft.rounds")),
        "curate": chosen.value("scorer.model") is not None,
    }
    return [name for name in (*SECTIONS, *SAMPLING, "curate") if used.get(name.partition("_")[0], True)]


def fastest(chosen: Choices, memory_of: Memory, limit: float, where: str) -> Choices:
    """For each stage the first level that fits; adapters in all stages that can have them, or in none."""
    found: dict[str, Level] = {}
    for level in levels():
        missing = [name for name in stages(chosen) if name not in found]
        if not missing:
            break
        memory = memory_of(at_level(chosen, {**dict.fromkeys(missing, level), **found}))
        found |= {name: level for name in missing if _largest(memory, name) <= limit}
    found |= {name: SMALLEST for name in stages(chosen) if name not in found}
    if any(found[name].lora for name in ("sft", "irft_train") if name in found):
        for name in {"sft", "irft_train"} & found.keys():
            if not found[name].lora:
                found[name] = replace(found[name], recomputed=True, lora=True)
    return at_level(chosen, found, where)


def _largest(memory: Mapping[str, float], stage: str) -> float:
    return max((bytes_ for name, bytes_ in memory.items() if stage_of(name) == stage), default=0.0)


def at_level(chosen: Choices, found: Mapping[str, Level], where: str = "memory") -> Choices:
    """The choices with what the level of each stage asks for; defaults are not written."""
    values: dict[str, Chosen] = {}
    for stage, level in found.items():
        values |= dict(_training(chosen, stage, level, where)) if stage in SECTIONS else {}
        if stage in SAMPLING and level.sampled < SAMPLED[0]:
            values[f"{SAMPLING[stage]}.batch_size"] = Chosen(level.sampled, f"fits into the memory of {where}")
        if stage == "curate" and level.sampled < SCORED:
            values["scorer.batch_size"] = Chosen(level.sampled, f"fits into the memory of {where}")
    return chosen.changed(values)


def _training(chosen: Choices, stage: str, level: Level, where: str) -> Iterator[tuple[str, Chosen]]:
    section = SECTIONS[stage]
    if level.recomputed:
        yield f"{section}.gradient_checkpointing", Chosen(True, "slower, with less memory")
    if level.lora and stage in ("sft", "irft_train"):
        yield f"{section}.lora", Chosen(dict(LORA), f"training all weights does not fit into the memory of {where}")
        if stage == "sft":
            optimiser = dict(chosen.value("sft.optimiser"))
            optimiser["learning_rate"] = _times(optimiser["learning_rate"], LORA_RATE)
            rates = [_times(rate, LORA_RATE) for rate in chosen.value("sft_matched.learning_rates")]
            yield "sft.optimiser", Chosen(optimiser, f"a start, {LORA_RATE} times that of training all weights")
            yield "sft_matched.learning_rates", Chosen(rates, "likewise")


def _times(rate: float, factor: int) -> float:
    return float(f"{rate * factor:.3g}")


def _without_rft(chosen: Choices, where: str) -> Choices:
    why = f"RFT trains all weights (a draft gives it no LoRA), which does not fit into the memory of {where}"
    keys = [key for key in chosen.values if key.startswith("rft.") and key != "rft.rounds"]
    return chosen.without(*keys).changed({"rft.rounds": Chosen(0, why)}, f"RFT is off: {why}")
