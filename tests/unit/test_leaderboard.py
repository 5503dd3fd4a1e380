"""The leaderboard's columns, settings, graph, data and table; lm-eval itself runs in tests/pipeline."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from lm_eval.api.instance import Instance
from transformers import GenerationConfig, OPTConfig, OPTForCausalLM

from juicer.data.template import Template
from juicer.evaluation.benchmark_results import BenchmarkedModel, TaskResult
from juicer.evaluation.benchmarks import Source, missing_files, sources, write_cards, write_split
from juicer.evaluation.leaderboard import Leaderboard, column_of, data_from, evaluate, language_model
from juicer.models.loading import load_policy, load_template, save_policy
from juicer.recipe.activation import load
from juicer.reporting.leaderboard_table import PAPER, as_markdown, leaderboard_of
from juicer.reporting.numbers import summarise
from juicer.reporting.page import Content, render
from juicer.reporting.plots import Curation
from juicer.runtime.errors import InputError
from juicer.settings.compute import ComputeSettings
from juicer.settings.data import TemplateSettings
from juicer.settings.leaderboard import BenchmarkSettings, HarnessSettings, LeaderboardSettings
from tasks.mirror import REVISIONS
from tests.chat_tokenizers import byte_level
from tests.example_evaluations import benchmark_result, curation, parsed, recipe, table

QUICKSTART = Path(__file__).parents[2] / "recipes" / "quickstart.yaml"
ACCURACY = BenchmarkSettings(fewshot=0, metric="acc")


def result(name: str, method: str, number: int, score: float = 50.0, *, limit: int | None = None) -> BenchmarkedModel:
    """What tasks.leaderboard writes, with the same score in every column."""
    return BenchmarkedModel.parse(benchmark_result(name, method, number, score, limit=limit), "results.json")


def task(questions: int, **metrics: float) -> TaskResult:
    named = {f"{name},none": value for name, value in metrics.items()}
    return TaskResult(metrics=named, questions=questions, fewshot=0, version=1.0)


def test_a_column_is_the_mean_over_the_questions_of_its_tasks() -> None:
    tasks = [task(30, acc=0.5, acc_stderr=0.09), task(10, acc=0.9, acc_stderr=0.1)]
    column = column_of(tasks, ACCURACY, cut=2)
    assert (column.score, column.questions, column.cut) == (pytest.approx(60), 40, 2)
    assert column.error == pytest.approx(100 * (0.09**2 * 0.75**2 + 0.1**2 * 0.25**2) ** 0.5)


def test_a_single_question_has_no_standard_error() -> None:
    assert column_of([task(1, acc=1.0)], ACCURACY).error is None


def test_the_average_is_the_plain_mean_of_the_columns_whatever_their_sizes() -> None:
    one, two = task(1000, acc=0.2), task(10, acc=0.6)
    board = Leaderboard(columns={"arc": column_of([one], ACCURACY), "mmlu": column_of([two], ACCURACY)})
    assert board.average == pytest.approx(40)


def test_the_paper_s_averages_follow_from_its_columns() -> None:
    for rounds, (*columns, average) in PAPER.items():
        assert sum(columns) / 6 == pytest.approx(average, abs=0.011), rounds


def test_the_stock_tasks_read_data_whose_commits_are_known() -> None:
    known = sources()
    assert {source.dataset for source in known} == set(REVISIONS)
    assert sum(source.dataset == "cais/mmlu" for source in known) == 57
    assert Source("openai/gsm8k", "main", ("train", "test")) in known


def test_an_empty_mirror_lacks_every_file(tmp_path: Path) -> None:
    missing = {path.relative_to(tmp_path).as_posix() for path in missing_files(tmp_path)}
    assert {"openai/gsm8k/main/test.jsonl", "Rowan/hellaswag/README.md", "cais/mmlu/anatomy/dev.jsonl"} <= missing


def test_data_that_changed_in_place_are_read_anew(tmp_path: Path) -> None:
    source = Source("ours/tiny", "main", ("test",))
    for text in ("old", "new"):
        write_split(tmp_path, source, "test", [{"question": text}])
        write_cards(tmp_path, [source])
        with data_from(tmp_path, tmp_path / text):
            assert datasets.load_dataset("ours/tiny", "main")["test"]["question"][0] == text


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"gsm8k": {"filter": "strict"}}, "leaderboard.harness.gsm8k.filter: gsm8k has no filter 'strict'"),
        ({"mmlu": {"metric": "acc_norm"}}, "has no metric 'acc_norm' (one of: acc)"),
    ],
)
def test_a_metric_that_a_task_lacks_is_refused_before_the_model_is_read(
    tmp_path: Path, template: Template, given: dict[str, Any], message: str
) -> None:
    settings, compute, model = HarnessSettings.parse(given, "params.yaml"), ComputeSettings(), tmp_path / "no-model"
    with pytest.raises(InputError) as error:
        evaluate(model, template, settings, compute, tmp_path, tmp_path, lambda *_: None, bars=False)
    assert message in str(error.value)


def test_the_same_weights_answer_alike_as_base_and_as_saved_and_as_long_as_lm_eval_asks(tmp_path: Path) -> None:
    tokenizer = byte_level(["<pad>", "</s>"], "</s>", start="</s>")
    torch.manual_seed(0)
    config = OPTConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        ffn_dim=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        word_embed_proj_dim=16,
        max_position_embeddings=288,  # room for the 256 tokens of gsm8k's answers, and not for 40 more
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
    )
    base = OPTForCausalLM(config)
    base.generation_config = GenerationConfig(eos_token_id=1, repetition_penalty=1.3, max_new_tokens=40, num_beams=2)
    base.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    limits, compute = TemplateSettings(max_prompt_tokens=100, max_response_tokens=100), ComputeSettings(threads=1)
    template = load_template(tmp_path / "base", limits)
    save_policy(load_policy(tmp_path / "base", compute), template, tmp_path / "saved", None)
    answers = []
    for name in ("base", "saved"):
        own = load_template(tmp_path / name, limits)
        assert own.ends == template.ends
        measured = language_model(tmp_path / name, own, HarnessSettings(batch_size=2), compute, bars=False)
        asked = {"until": ["Question:"], "do_sample": False, "temperature": 0.0}
        long, short = ("hello, how are you? " * 20, asked), ("hello", {**asked, "max_gen_toks": 100})
        requests = [Instance("generate_until", {}, each, place) for place, each in enumerate((long, short))]
        answers.append(measured.generate_until(requests))
    assert answers[0] == answers[1]
    assert [len(tokenizer(answer, add_special_tokens=False)["input_ids"]) >= 100 for answer in answers[0]] == [True] * 2


def test_a_benchmark_given_in_part_keeps_the_other_defaults() -> None:
    settings = LeaderboardSettings.parse({"harness": {"gsm8k": {"fewshot": 8}}}, "params.yaml").harness
    assert settings.gsm8k == BenchmarkSettings(fewshot=8, metric="exact_match", filter="strict-match")
    assert settings.arc == HarnessSettings().arc


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("leaderboard.harness.arc.fewshots=5", "(did you mean 'fewshot'?)"),
        ("leaderboard.harness.truthfulqa.fewshot=5", "the task has six examples of its own"),
        ("leaderboard.harness.batch_size=0", "must be auto or at least 1"),
        (
            "leaderboard={enabled: true, mirror: gone}",
            "no such folder: gone (make it on a machine with a network",
        ),
    ],
)
def test_wrong_settings_are_refused(override: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        load(QUICKSTART, [override])
    assert message in str(error.value)


def test_switched_off_the_leaderboard_adds_no_stage() -> None:
    _, graph = load(QUICKSTART, ["leaderboard.mirror=gone"])
    assert (graph.leaderboard, graph.mirror, graph.leaderboard_table) == ({}, {}, None)


def test_the_last_rounds_and_the_controls_are_measured_in_a_chain() -> None:
    _, graph = load(QUICKSTART, ["leaderboard.enabled=true"])
    assert list(graph.leaderboard) == ["base", "sft", "sft-matched", "irft-r3", "rft-r2"]
    tables = [f"evaluation/leaderboard-tables/{name}.json" for name in graph.leaderboard]
    assert [model.previous for model in graph.leaderboard.values()] == [None, *tables[:-1]]
    assert graph.leaderboard_table == tables[-1]
    assert graph.mirror == {"hub": graph.benchmarks}


def test_all_rounds_are_measured_where_the_recipe_says_so() -> None:
    _, graph = load(QUICKSTART, ["leaderboard={enabled: true, rounds: all}"])
    assert list(graph.leaderboard) == list(graph.models)


def test_a_mirror_folder_takes_the_place_of_the_hub(tmp_path: Path) -> None:
    _, graph = load(QUICKSTART, [f"leaderboard={{enabled: true, mirror: {tmp_path}}}"])
    assert (graph.benchmarks, graph.mirror) == (str(tmp_path), {})


def test_the_paper_s_rows_stand_beside_base_and_the_last_irft_round() -> None:
    results = [result("base", "base", 0), result("sft", "sft", 0), result("irft-r4", "irft", 4)]
    results += [result("irft-r5", "irft", 5), result("rft-r5", "rft", 5)]
    board = leaderboard_of(results, paper=True, rounds=5)
    papers = {model.name: model.paper.name if model.paper else None for model in board.models}
    assert papers == {
        "base": "zephyr-7b-sft-full",
        "sft": None,
        "irft-r4": None,
        "irft-r5": "IRFT, T = 5",
        "rft-r5": None,
    }
    paper = board.models[3].paper
    assert paper is not None and paper.truthfulqa == 39.99
    assert all(model.paper is None for model in leaderboard_of(results, paper=False, rounds=5).models)


def test_rounds_that_the_paper_did_not_run_have_no_row() -> None:
    (model,) = leaderboard_of([result("irft-r3", "irft", 3)], paper=True, rounds=3).models
    assert model.paper is None


def test_models_measured_in_different_ways_are_not_put_in_one_table() -> None:
    with pytest.raises(InputError, match="sft: it was measured in another way than base"):
        leaderboard_of([result("base", "base", 0), result("sft", "sft", 0, limit=5)], paper=False, rounds=1)


def test_the_description_of_a_run_is_a_table_with_the_paper_s_row() -> None:
    (model,) = leaderboard_of([result("base", "base", 0, 12.5)], paper=True, rounds=5).models
    lines = as_markdown(model).splitlines()
    assert lines[0].startswith("| model | ARC | TruthfulQA |")
    assert lines[2].startswith("| base | 12.50 |")
    assert lines[3] == "| the paper: zephyr-7b-sft-full | 74.83 | 34.07 | 76.09 | 31.92 | 81.09 | 58.86 | 59.48 |"


def test_the_page_has_the_table_only_where_it_was_measured() -> None:
    models = parsed(table(1, 0))
    summary = summarise(models, "quickstart", 0)
    content = Content("", summary, models, [], Curation.parse(curation(), "curation.json"), {}, recipe())
    assert "Leaderboard" not in render(content)
    board = leaderboard_of([result("base", "base", 0, 31.5, limit=2)], paper=True, rounds=1)
    page = render(replace(content, summary=summary.model_copy(update={"leaderboard": board})))
    section = page[page.index('<section id="leaderboard"') : page.index('<section id="figures"')]
    assert "the paper: zephyr-7b-sft-full" in section
    assert "A quick look: at most 2 questions per task." in section
    assert "GSM8k 5-shot" in section
    assert section.count("<tr") == 3
