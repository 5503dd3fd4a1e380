"""What a first recipe sets for data, models and machines of many kinds, and how it is made to fit."""

import hashlib
import importlib.util
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from juicer.drafting import choices
from juicer.drafting.choices import Choices, Chosen, Facts, choose
from juicer.drafting.fitting import Level, fit, levels, stage_of
from juicer.drafting.measure import Measured, Sized
from juicer.drafting.recipe_text import flow, recipe_text
from juicer.recipe.schema import Recipe
from juicer.runtime.devices import GIB
from juicer.runtime.errors import InputError
from juicer.runtime.yaml_text import parse_yaml
from juicer.settings.sources import ColumnsSettings


def measured(rows: int = 1000, held_out: int = 0, longest: int = 100, **more: Any) -> Measured:
    """Rows with prompts of 1 to `longest` tokens, and responses of half as many."""
    lengths = [1 + row * longest // rows for row in range(rows)]
    hashes = [hashlib.sha256(str(row).encode()).hexdigest() for row in range(rows)]
    sized = [
        Sized(name, name, row < held_out, length, max(2, length // 2))
        for row, (name, length) in enumerate(zip(hashes, lengths, strict=True))
    ]
    return Measured(sized, Counter(more.get("unsuitable", {})), more.get("exact", True))


def facts(**changes: Any) -> Facts:
    given = changes.get("measured", measured())
    usual: dict[str, Any] = {
        "name": "mine",
        "sources": [{"path": "rows.jsonl", "format": "prompt-response"}],
        "columns": ColumnsSettings(),
        "exchange": "last",
        "rows": len(given.rows),
        "further_turns": 0,
        "measured": given,
        "policy": "model",
        "revision": None,
        "parameters": 10_000_000,
        "context": 2048,
        "template": "hh",
        "template_why": "it has no chat template",
        "cores": 2,
    }
    return Facts(**{**usual, **changes})


def recipe_of(chosen: Choices) -> Recipe:
    """The recipe that the text is read back as."""
    return Recipe.parse(parse_yaml(recipe_text(chosen, "head"), "text"), "text")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"gpus": 1, "parameters": 1_400_000_000, "revision": "a" * 40, "policy": "EleutherAI/pythia-1.4b"},
        {"gpus": 3, "parameters": 135_000_000},
        {"scorer": "judge", "scorer_kind": "beaver"},
        {"measured": measured(60)},
        {"measured": measured(400, held_out=100)},
        {"columns": ColumnsSettings(prompt="question", response="the answer: no")},
        {"further_turns": 12, "exchange": "first"},
        {"sources": [{"path": "a b.jsonl", "format": "hh"}, {"path": "null", "format": "spin"}]},
        {"template": "model", "template_arguments": {"enable_thinking": False}},
        {"name": "no", "policy": "./1e5"},
    ],
    ids=repr,
)
def test_every_recipe_is_read_back_as_it_was_chosen(changes: dict[str, Any]) -> None:
    given = facts(**changes)
    recipe = recipe_of(choose(given))
    assert recipe.name == given.name and recipe.policy.model == given.policy
    assert [source.path for source in recipe.fetch.sources] == [source["path"] for source in given.sources]
    assert recipe.template.max_prompt_tokens + recipe.template.max_response_tokens <= 2048
    assert recipe.pretrain is None and recipe.world is None
    assert recipe.sft.batch_size % recipe.compute.processes == 0
    assert recipe.rft.policy.prompts_per_step * 4 % recipe.compute.processes == 0


def test_every_value_that_is_not_self_evident_has_a_reason_and_no_word_of_the_quickstart() -> None:
    chosen = choose(facts(scorer="judge", scorer_kind="beaver", further_turns=3))
    silent = {key for key, each in chosen.values.items() if not each.why}
    assert silent == {"description", "fetch.source", "policy.model", "scorer.kind", "scorer.model"}
    text = recipe_text(chosen, "head")
    assert not [word for word in ("pretrain", "world", "quickstart") if word in text]


def test_limits_keep_99_per_cent_of_the_rows() -> None:
    chosen = choose(facts())
    assert (chosen.value("template.max_prompt_tokens"), chosen.value("template.max_response_tokens")) == (104, 56)
    assert chosen.kept == 1.0 and chosen.notes == ()


def test_a_smaller_context_lowers_the_limits_and_says_what_they_drop() -> None:
    chosen = choose(facts(context=90))
    limits = chosen.value("template.max_prompt_tokens"), chosen.value("template.max_response_tokens")
    assert limits == (60, 30) and 0.5 <= chosen.kept < 0.7
    assert any(f"drop {1 - chosen.kept:.0%} of the rows" in note and "90 tokens" in note for note in chosen.notes)


def test_rows_that_do_not_fit_into_the_context_at_all_are_refused() -> None:
    long = Measured([Sized("0" * 64, "0" * 64, False, 500, 500)] * 60, Counter())
    with pytest.raises(InputError, match=r"context of 128 tokens: half of them have 1,000 tokens or more"):
        choose(facts(measured=long, context=128))


@pytest.mark.parametrize(
    ("rows", "share"),
    [(10_000, 0.05), (1000, 0.05), (200, 0.15), (50_000, 0.02), (100_000, 0.01)],
)
def test_shares_give_every_split_enough_prompts_and_no_more(rows: int, share: float) -> None:
    shares, splits = choices.shares_of(measured(rows), 1.0)
    assert shares.validation_share == shares.held_out_share == share
    assert min(splits.values()) >= 20


def test_rows_that_the_source_holds_out_are_those_to_report_on() -> None:
    chosen = choose(facts(measured=measured(500, held_out=100)))
    assert chosen.value("curate.held_out_share") == 0.0
    assert "holds out 100 rows itself" in chosen.values["curate.held_out_share"].why
    assert chosen.value("evaluation.prompts") == 100


def test_few_rows_are_warned_of_and_too_few_refused_with_the_number_that_is_needed() -> None:
    few = choose(facts(measured=measured(40)))
    assert any("50 is the least" in note for note in few.notes)
    choose(facts(measured=measured(choices.LEAST)))
    for rows, told in (
        (3, "3 usable rows with 3 different prompts are"),
        (1, "1 usable row with 1 different prompt is"),
    ):
        with pytest.raises(InputError, match=rf"{told} too few.*give at least 20 different prompts"):
            choose(facts(measured=measured(rows)))


def test_a_template_that_takes_no_row_is_refused_with_the_reason() -> None:
    with pytest.raises(InputError, match=r"takes none of the rows \(3 x markup_in_text\)"):
        choose(facts(measured=measured(0, unsuitable={"markup_in_text": 3}), rows=3))


@pytest.mark.parametrize(("rows", "batch"), [(1000, 32), (80, 8), (25, 2)])
def test_few_rows_get_smaller_batches(rows: int, batch: int) -> None:
    assert choose(facts(measured=measured(rows))).value("sft.batch_size") == batch


def test_without_a_scorer_all_rows_are_kept_and_with_one_the_best() -> None:
    assert choose(facts()).value("curate.keep") is None
    scored = facts(scorer="judge", scorer_kind="sequence-classification")
    assert 600 < choose(scored).value("curate.keep") <= 800
    many = measured(4000)
    assert choose(facts(scorer="judge", measured=many, rows=160_000)).value("curate.keep") == 10_000


@pytest.mark.parametrize(
    ("parameters", "rate", "name"),
    [(10e6, 2e-4, "adamw"), (135e6, 5e-5, "adamw"), (1.4e9, 1e-5, "rmsprop"), (7e9, 1e-5, "rmsprop")],
)
def test_learning_rates_go_by_the_size_of_the_model(parameters: float, rate: float, name: str) -> None:
    chosen = choose(facts(parameters=int(parameters)))
    assert chosen.value("sft.optimiser")["learning_rate"] == rate
    assert chosen.value("irft.training.optimiser")["name"] == name


def test_several_gpus_get_a_process_each_unless_the_model_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    large = choose(facts(gpus=6, parameters=10**9))
    assert (large.value("compute.processes"), large.value("compute.zero_stage")) == (6, 2)
    assert large.value("sft.batch_size") == 12
    assert choose(facts(gpus=6)).value("compute.processes") is None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert choose(facts(gpus=2, parameters=10**9)).value("compute.zero_stage") == 0


def test_a_gpu_without_bf16_computes_in_fp32() -> None:
    assert choose(facts(gpus=1, has_bf16=False)).value("compute.precision") == "fp32"
    assert choose(facts(gpus=1)).value("compute.precision") is None


def test_a_mixture_names_the_format_of_each_source_where_they_differ() -> None:
    mixed = [{"path": "a.jsonl", "format": "hh"}, {"path": "b.jsonl", "format": "messages"}]
    assert choose(facts(sources=mixed)).value("fetch.source") == mixed
    same = [{"path": "a.jsonl", "format": "hh"}, {"path": "b.jsonl", "format": "hh"}]
    chosen = choose(facts(sources=same))
    assert chosen.value("fetch.source") == ["a.jsonl", "b.jsonl"] and chosen.value("fetch.format") == "hh"


def memory(per_row: float, fixed: float = 0.0, per_length: float = 0.0) -> Any:
    """A plan whose stages need memory for a row of a forward pass; adapters need none of the fixed part."""

    def memory_of(chosen: Choices) -> dict[str, float]:
        found = {}
        for stage, section in {"sft": "sft", "irft_train@r1": "irft.training", "rft_policy@r1": "rft.policy"}.items():
            if stage.startswith("rft") and not chosen.value("rft.rounds"):
                continue
            each = per_row / 10 if chosen.value(f"{section}.gradient_checkpointing") else per_row
            whole = 0.0 if chosen.value(f"{section}.lora") else fixed
            found[stage] = each + whole + per_length * chosen.value("template.max_prompt_tokens")
        found["evaluate@base"] = chosen.value("evaluation.sampling.batch_size") or 128
        return found

    return memory_of


def fitted(memory_of: Any, limit: float) -> Choices:
    return fit(lambda share: choose(facts(), share), memory_of, limit, "this machine")


def test_what_fits_is_left_as_it_is() -> None:
    assert fitted(memory(1.0), 1000) == choose(facts())


def test_rows_of_a_pass_in_training_are_left_to_the_stage_which_takes_what_fits() -> None:
    assert recipe_of(fitted(memory(1.0), 1000)).sft.micro_batch_size == "auto"


def test_activations_are_recomputed_where_the_smallest_part_of_a_batch_does_not_fit() -> None:
    chosen = fitted(memory(1000.0), 250)
    assert chosen.value("sft.gradient_checkpointing") is True
    assert chosen.value("sft.lora") is None and chosen.value("rft.rounds") == 1


def test_adapters_are_trained_where_all_weights_do_not_fit_and_rft_is_switched_off() -> None:
    chosen = fitted(memory(1.0, fixed=1000), 200)
    assert chosen.value("sft.lora") == chosen.value("irft.training.lora") == {"r": 64, "alpha": 16}
    assert chosen.value("sft.optimiser")["learning_rate"] == 2e-3
    assert chosen.value("rft.rounds") == 0 and any("RFT is off" in note for note in chosen.notes)
    recipe = recipe_of(chosen)
    assert recipe.sft.lora is not None and recipe.rft.rounds == 0
    assert not [key for key in chosen.values if key.startswith("rft.") and key != "rft.rounds"]


def test_longer_rows_are_given_up_before_rft_is() -> None:
    chosen = fitted(memory(0.0, per_length=10), 1000)
    assert chosen.value("rft.rounds") == 1 and 0.9 <= chosen.kept < 0.99
    assert any("do not fit into the memory of this machine" in note for note in chosen.notes)


def test_what_does_not_fit_at_all_says_so_with_the_numbers() -> None:
    chosen = fitted(memory(0.0, per_length=GIB), 10 * GIB)
    assert any(note.startswith("DOES NOT FIT HERE: sft needs 104.0 GiB, and 10.0 GiB") for note in chosen.notes)


def test_levels_go_from_fast_to_small() -> None:
    assert levels()[0] == Level(recomputed=False, lora=False, sampled=128)
    assert levels()[-1] == Level(recomputed=True, lora=True, sampled=1)
    assert stage_of("sft_matched@control") == "sft" and stage_of("irft_train@r2") == "irft_train"


@pytest.mark.parametrize(
    "value",
    ["a", "no", "1e5", "1.5", "", " a", "a: b", "a # b", "null", "~", "é", "-x", "[a]", "a,b", "2025-01-01", "0x1F",
     "*a", "x\"y", 0.05, 5e-7, 2e-4, 1.0, 0.0, 12, True, None, [1, "a, b"], {"a b": {"c": 1e-5}}],
)  # fmt: skip
def test_a_value_is_read_back_as_itself(value: Any) -> None:
    text = recipe_text(Choices({"name": Chosen(value, "why")}), "")
    assert parse_yaml(text, "text")["name"] == value
    assert type(parse_yaml(f"a: {flow(value)}", "text")["a"]) is type(value)


def test_comments_stand_below_each_other_and_sections_in_the_order_of_recipes() -> None:
    given = {"sft.batch_size": Chosen(8, "b"), "seed": Chosen(0, "a"), "fetch.source": Chosen(Path("x").name)}
    assert recipe_text(Choices(given), "Head.").splitlines() == [
        "# Head.",
        "seed: 0                               # a",
        "",
        "fetch:",
        "  source: x",
        "",
        "sft:",
        "  batch_size: 8                       # b",
    ]
