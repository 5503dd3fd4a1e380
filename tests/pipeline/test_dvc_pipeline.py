"""The whole graph under DVC on the smallest world: contract of the outputs, what runs again when, and the run cache."""

import json
import os
import re
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from juicer.quickstart.random_models import write_random_model
from juicer.settings.data import TemplateSettings
from juicer.settings.tiny import TinySettings
from tests.finished_pipeline import ROOT, activate, call, copy_of_the_project, repro
from tests.shared import copied

HH = ROOT.parent / "shared" / "data" / "hh-harmless"
SUMMARY_KEYS = {
    "name", "method", "round", "path", "reward_mean", "reward_sem", "win_rate_vs_sft", "preference_accuracy",
    "preference_accuracy_per_token", "preference_gap", "demonstration_gap", "response_tokens", "ended", "kl_to_sft",
    "distinct_2", "oracle_mean",
}  # fmt: skip


@pytest.fixture(scope="module")
def project(finished_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project in which the smallest recipe has run from scratch."""
    return copied(finished_pipeline, tmp_path_factory.mktemp("project"))


def summary_of(folder: Path) -> dict:
    return json.loads((folder / "metrics/summary.json").read_text())


def test_the_summary_keeps_its_contract(project):
    summary = summary_of(project)
    assert (summary["recipe"], summary["seed"]) == ("quickstart", 0)
    assert [model["name"] for model in summary["models"]] == ["base", "sft", "sft-matched", "irft-r1", "rft-r1"]
    for model in summary["models"]:
        assert set(model) >= SUMMARY_KEYS, model["name"]
        assert (project / model["path"] / "model.safetensors").is_file()
    assert summary["champion"]["selected_on"] == "validation"
    assert summary["champion"]["name"] in {model["name"] for model in summary["models"]}
    assert "<svg" in (project / "report/report.html").read_text()


@pytest.mark.parametrize("path", ["models/sft", "models/irft/r1", "models/rft/r1/policy"])
def test_every_policy_is_an_ordinary_folder_that_answers(project, path):
    tokenizer = AutoTokenizer.from_pretrained(project / path)
    model = AutoModelForCausalLM.from_pretrained(project / path)
    question = [{"role": "user", "content": "How do I fly a kite?"}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**prompt, max_new_tokens=4)
    assert answer.shape[1] > prompt["input_ids"].shape[1]


def test_the_control_is_given_at_least_the_steps_and_tokens_of_the_longer_method(project):
    used = [
        json.loads((project / path / "training.json").read_text())
        for path in ("models/irft/r1", "models/rft/r1/policy")
    ]
    control = json.loads((project / "models/sft-matched/training.json").read_text())
    assert control["steps"] >= max(record["total_steps"] for record in used)
    batch_tokens = control["response_tokens"] / control["steps"]
    assert control["response_tokens"] >= max(record["total_response_tokens"] for record in used) - batch_tokens


def test_nothing_runs_twice_raising_t_runs_the_new_round_and_lowering_it_restores(project):
    # `register` is a side effect and runs each time; see dvc.yaml.
    assert repro(project) == ({"register"}, set())

    activate(project, "irft.rounds=2")
    ran, _ = repro(project, "report")
    new = {"irft_generate@r2", "irft_train@r2", "evaluate@irft-r2"}
    readers = {"sft_matched@control", "evaluate@sft-matched", "report"}
    assert new <= ran
    # `code` looks at every params.yaml.
    assert {name for name in ran if not name.startswith("tabulate@")} <= new | readers | {"code"}
    assert "irft-r2" in {model["name"] for model in summary_of(project)["models"]}

    activate(project, "irft.rounds=1")
    ran, _ = repro(project, "report")
    assert ran == {"code"}
    assert "irft-r2" not in {model["name"] for model in summary_of(project)["models"]}


def test_a_misspelt_parameter_stops_the_run_in_one_line_and_loses_no_model(project):
    params = project / "params.yaml"
    before = params.read_text()
    start = before.index("\nsft:\n")
    params.write_text(before[:start] + before[start:].replace("\n  epochs: 1.0", "\n  epoch: 1.0", 1))
    try:
        assert params.read_text() != before
        done = call(project, "tasks.sft", "--policy", "models/world/policy", "--data", "data/curated", "--out",
                    "models/sft", check=False)  # fmt: skip
    finally:
        params.write_text(before)
    assert done.returncode == 1
    assert done.stderr.strip() == "error: params.yaml: unknown parameter 'sft.epoch' (did you mean 'epochs'?)"
    assert (project / "models/sft/model.safetensors").is_file()


def test_the_readme_s_way_to_one_s_own_demonstrations_ends_in_an_evaluation(tmp_path):
    folder = copy_of_the_project(tmp_path)
    rows = [{"instruction": f"How do I boil {number} eggs?", "output": "For eight minutes."} for number in range(100)]
    (folder / "demonstrations.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in rows))
    limits = TemplateSettings(name="model", max_prompt_tokens=96, max_response_tokens=96)
    texts = [f"{row['instruction']} {row['output']}" for row in rows]
    config = ROOT / "recipes/models/pythia-1b.json"
    write_random_model(config, texts, limits, TinySettings(), 0, folder / "path/to/model")
    given = re.findall(r"^    (juicer (?:look|init) .*?)  +#", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(given) == 2
    for command in given:
        call(folder, *command.split())
    call(folder, "juicer", "use", "recipes/mine.yaml", "sft.epochs=1", "irft.rounds=0", "rft.rounds=0")
    call(folder, "dvc", "repro", "evaluate@sft")
    evaluated = json.loads((folder / "evaluation/models/sft.json").read_text())
    assert evaluated["held_out"]["demonstration_gap"] is not None and evaluated["held_out"]["oracle_mean"] is None


@pytest.mark.skipif(not HH.is_dir() and "CI" not in os.environ, reason="real HH rows are not beside this checkout")
@pytest.mark.slow
def test_real_hh_rows_run_to_the_report(tmp_path):
    folder = copy_of_the_project(tmp_path)
    smaller = [
        f"fetch.source={HH}",
        f"pretrain.corpus={HH}",
        "pretrain.policy={hidden_size: 32, layers: 1, heads: 2, documents: 200, context: 384, vocabulary: 600}",
        "pretrain.scorer={hidden_size: 16, layers: 1, heads: 2, pairs: 60}",
        "curate.keep=32",
        "irft.rounds=1",
        "rft.rounds=0",
        "sft_matched.enabled=false",
        "evaluation.prompts=8",
    ]
    call(folder, "juicer", "use", "recipes/hh-tiny.yaml", *smaller)
    repro(folder)
    summary = summary_of(folder)
    assert [model["name"] for model in summary["models"]] == ["base", "sft", "irft-r1"]
    assert all(model["reward_mean"] is not None and "oracle_mean" not in model for model in summary["models"])
    assert "hh-harmless" in (folder / "report/report.html").read_text()
