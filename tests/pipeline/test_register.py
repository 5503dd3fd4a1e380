"""Registering ensures rather than adds. A dvc.lock and the small files it speaks of stand in for a pipeline run."""

import getpass
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from ruamel.yaml import YAML

from juicer.registry.ensure import KEY, KIND, PARENT, ensure
from juicer.registry.figures import FIGURES, figures_of
from juicer.registry.provenance import git_tags
from juicer.registry.records import ATTEMPT, Records, check_recorded, collect
from juicer.registry.store import without_password
from juicer.registry.versions import open_registry
from juicer.reporting.contract import Summary
from juicer.runtime.errors import InputError
from juicer.stages.dvc_files import DvcLock
from juicer.stages.hashes import md5_of
from tests.example_evaluations import metrics

# MLflow's own use of SQLAlchemy.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

MODELS = {
    "base": ("base", 0, "models/world/policy", ""),
    "sft": ("sft", 0, "models/sft", "models/world/policy"),
    "sft-matched": ("sft-matched", 0, "models/sft-matched", "models/sft"),
    "irft-r1": ("irft", 1, "models/irft/r1", "models/sft"),
    "irft-r2": ("irft", 2, "models/irft/r2", "models/irft/r1"),
    "rft-r1": ("rft", 1, "models/rft/r1/policy", "models/sft"),
}
STAGES = {"sft": "sft", "sft-matched": "sft_matched@control", "irft-r1": "irft_train@r1", "irft-r2": "irft_train@r2"}
WEIGHTS = b"weights " * 20_000


class Project:
    """Files of a finished pipeline, written by hand."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stages: dict[str, Any] = {}
        self.summary: dict[str, Any] = {"recipe": "quickstart", "seed": 0, "control": "sft", "models": []}
        self.stage("fetch", "", [], ["data/raw"])
        self.stage("curate", "", ["data/raw"], ["data/curated"])
        self.stage("pretrain@world", "", [], ["models/world"])
        self.train("pretrain@world", "models/world/policy", "", [])
        for name, (method, number, path, policy) in MODELS.items():
            if name == "rft-r1":
                self.train("rft_reward@r1", "models/rft/r1/reward", "", ["models/sft"])
                self.train("rft_policy@r1", path, f" --policy {policy}", [policy, "models/rft/r1/reward"])
            elif name != "base":
                self.train(STAGES[name], path, f" --policy {policy}", [policy])
            self.evaluate(name, method, number, path)
        # A round that an earlier recipe had: DVC keeps it in dvc.lock.
        self.train("irft_train@r9", "models/irft/r9", " --policy models/irft/r2", ["models/irft/r2"])
        tables = [f"evaluation/models/{name}.json" for name in MODELS]
        self.stage("report", "", tables, ["metrics/summary.json", "report/report.html"])
        self.choose("irft-r2")

    def stage(self, name: str, arguments: str, deps: list[str], outs: list[str]) -> None:
        self.stages[name] = {
            "cmd": f"python -m tasks.{name.split('@')[0]}{arguments} --out {outs[0]}",
            "deps": [{"path": path, "hash": "md5", "md5": "0"} for path in sorted(["juicer/runtime/errors.py", *deps])],
            "params": {"params.yaml": {"seed": 0, "sft": {"epochs": 2.0, "lora": None}, "scorer.kind": "beaver"}},
            "outs": [{"path": path, "hash": "md5", "md5": f"md5-of-{path}"} for path in outs],
        }
        for path in outs:
            (self.folder / path).parent.mkdir(parents=True, exist_ok=True)

    def train(self, stage: str, path: str, arguments: str, deps: list[str]) -> None:
        self.stage(stage, arguments, [*deps, "data/curated"], [path if "@world" not in stage else "models/world"])
        (self.folder / path).mkdir(parents=True)
        (self.folder / path / "model.safetensors").write_bytes(WEIGHTS)
        curves = {"loss": {"step": list(range(1, 61)), "value": [1 / step for step in range(1, 61)]}}
        training = {"stage": stage, "steps": 60, "response_tokens": 900, "curves": curves, "facts": {"accuracy": 0.75}}
        self.write(f"{path}/training.json", training)
        costs = {"seconds": 12.5, "cpu_seconds": 10.0, "peak_memory_mb": 800.0, "response_tokens": 900}
        costs |= {"peak_device_memory_mb": 7000.0, "peak_device_reserved_mb": 8000.0}
        output = self.stages[stage]["outs"][0]["md5"]
        self.write(f".juicer/costs/{stage}.json", {"stage": stage, "output_md5": output, **costs})

    def evaluate(self, name: str, method: str, number: int, path: str) -> None:
        held_out = metrics(prompts=300, reward_mean=-1.5 + number)
        model = {"name": name, "method": method, "round": number, "path": path}
        arguments = " --scorer models/world/scorer --data data/curated"
        deps = [path, "models/sft", "data/curated", "models/world/scorer"]
        self.stage(f"evaluate@{name}", arguments, deps, [f"evaluation/models/{name}.json"])
        response = {"response": f"{name} knows", "score": None, "oracle": None}
        samples = [{"prompt": "How?", "demonstration": "So.", **response}]
        both = {"held_out": held_out, "held_out_scores": [], "samples": samples, "validation": held_out}
        self.write(f"evaluation/models/{name}.json", {**model, **both})
        row = {**model, "reward_mean": held_out["reward_mean"], "oracle_mean": None}
        self.summary["models"].append(row)

    def choose(self, champion: str) -> None:
        self.summary["champion"] = {"name": champion, "selected_on": "validation"}
        self.write("metrics/summary.json", self.summary)
        with (self.folder / "dvc.lock").open("w") as file:
            YAML().dump({"schema": "2.0", "stages": self.stages}, file)

    def hash(self) -> None:
        """Put the outputs' real md5s into dvc.lock."""
        for stage in self.stages.values():
            for out in stage["outs"]:
                if (self.folder / out["path"]).exists():
                    out["md5"] = md5_of(self.folder / out["path"])
        self.choose("irft-r2")

    def write(self, path: str, value: Any) -> None:
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / path).write_text(json.dumps(value))

    def records(self) -> Records:
        summary = Summary.read(self.folder / "metrics/summary.json")
        return collect(summary, Path("metrics/summary.json"), Path("dvc.lock"), "quickstart")

    def ensure(self) -> str:
        return ensure(self.records(), self.uri, "quickstart", "quickstart")

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.folder}/mlflow.db"

    def versions(self) -> dict[str, Any]:
        return {each.tags["model"]: each for each in MlflowClient(self.uri).search_model_versions("name='quickstart'")}


@pytest.fixture
def finished(project: Path, empty_store: Path) -> Project:
    shutil.copy(empty_store, project / "mlflow.db")
    return Project(project)


def run_stage(folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tasks.register", "--summary", "metrics/summary.json"],
        check=False,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_stage_brings_back_a_lost_database_and_a_second_call_adds_nothing(finished: Project) -> None:
    finished.hash()
    assert "(13 runs and 5 versions are new)" in finished.ensure()
    (finished.folder / "mlflow.db").unlink()
    assert "(13 runs and 5 versions are new)" in run_stage(finished.folder)
    assert "(0 runs and 0 versions are new)" in run_stage(finished.folder)


def test_a_version_carries_what_it_is_and_where_it_came_from(finished: Project) -> None:
    finished.ensure()
    versions = finished.versions()
    tags = versions["irft-r2"].tags
    assert set(versions) == {"sft", "sft-matched", "irft-r1", "irft-r2", "rft-r1"}
    assert (tags["recipe"], tags["method"], tags["round"], tags["seed"]) == ("quickstart", "irft", "2", "0")
    assert (tags["dvc_path"], tags["dvc_md5"]) == ("models/irft/r2", "md5-of-models/irft/r2")
    assert tags["dataset_md5"] == "md5-of-data/curated"
    assert tags["git_commit"] == "unknown", "this project is no git repository"
    assert figures_of(tags)["reward_mean"] == 0.5
    assert "oracle_mean" not in figures_of(tags)
    assert len(tags) <= 14, "few enough to be read"
    assert tags["parent"] == str(versions["irft-r1"].version)
    assert versions["rft-r1"].tags["parent"] == str(versions["sft"].version)
    assert "parent" not in versions["sft"].tags


def test_a_training_stage_is_a_finished_run_with_parameters_curves_and_times(finished: Project) -> None:
    finished.ensure()
    client = MlflowClient(finished.uri)
    experiment = client.get_experiment_by_name("quickstart")
    assert experiment is not None
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    run = runs["irft_train@r1"]
    assert {each.info.status for each in runs.values()} == {"FINISHED"}
    assert run.data.params == {"seed": "0", "sft.epochs": "2.0", "sft.lora": "null", "scorer.kind": "beaver"}
    assert run.data.metrics["accuracy"] == 0.75
    assert run.data.metrics["cost/seconds"] == 12.5
    assert run.data.metrics["cost/response_tokens_per_second"] == 72
    assert run.data.metrics["system/cpu_utilization_percentage"] == 80
    assert run.data.metrics["cost/peak_device_memory_mb"] == 7000
    assert run.data.metrics["cost/peak_device_reserved_mb"] == 8000
    assert run.data.metrics["system/peak_system_memory_usage_megabytes"] == 800
    assert run.data.metrics["system/peak_gpu_memory_usage_megabytes"] == 7000
    assert run.info.end_time - run.info.start_time == 12_500
    loss = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(point.step, point.value) for point in loss[:2]] == [(1, 1.0), (2, 0.5)]
    assert len(loss) == 60
    assert runs["pretrain@world"].data.metrics["policy/steps"] == 60
    assert runs["evaluate@irft-r1"].data.metrics["held_out/reward_mean"] == -0.5
    assert "held_out/oracle_mean" not in runs["evaluate@irft-r1"].data.metrics
    assert "irft_train@r9" not in runs, "a dropped round is not part of the recipe"


def pipeline_run(finished: Project) -> Run:
    """The one pipeline run that there is."""
    (run,) = MlflowClient(finished.uri).search_runs(["1"], "tags.stage = 'pipeline'")
    return run


def test_the_runs_of_a_pipeline_run_have_it_as_their_parent_and_say_who_ran_what(finished: Project) -> None:
    finished.ensure()
    client, parent = MlflowClient(finished.uri), pipeline_run(finished)
    children = client.search_runs(["1"], f"tags.`{PARENT}` = '{parent.info.run_id}'")
    assert len(children) == 13
    assert PARENT not in parent.data.tags
    assert parent.info.run_name.startswith("quickstart ")
    assert parent.info.start_time == min(run.info.start_time for run in children if "cost/seconds" in run.data.metrics)
    assert parent.info.end_time == max(run.info.end_time for run in children if "cost/seconds" in run.data.metrics)
    assert parent.data.metrics["champion/reward_mean"] == 0.5
    assert parent.data.params == {"seed": "0", "sft.epochs": "2.0", "sft.lora": "null", "scorer.kind": "beaver"}
    assert "| **irft-r2** |" in parent.data.tags["mlflow.note.content"]
    runs = {run.info.run_name: run.data.tags for run in children}
    assert runs["irft_train@r1"]["mlflow.source.name"] == "tasks/irft_train.py"
    assert runs["irft_train@r1"]["mlflow.source.type"] == "LOCAL"
    assert runs["irft_train@r1"]["mlflow.user"] == getpass.getuser()
    assert "mlflow.source.git.commit" not in runs["sft"], "this project is no git repository"
    experiment = client.get_experiment("1")
    assert experiment.tags[KIND] == "custom_model_development"


def test_another_round_is_a_pipeline_run_of_its_own_with_only_what_it_made(finished: Project) -> None:
    finished.ensure()
    first = pipeline_run(finished)
    finished.train("irft_train@r3", "models/irft/r3", " --policy models/irft/r2", ["models/irft/r2"])
    finished.evaluate("irft-r3", "irft", 3, "models/irft/r3")
    finished.stages["report"]["deps"].append({"path": "evaluation/models/irft-r3.json", "hash": "md5", "md5": "0"})
    finished.choose("irft-r2")
    assert "(2 runs and 1 versions are new)" in finished.ensure()
    client = MlflowClient(finished.uri)
    (second,) = (
        run for run in client.search_runs(["1"], "tags.stage = 'pipeline'") if run.info.run_id != first.info.run_id
    )
    children = client.search_runs(["1"], f"tags.`{PARENT}` = '{second.info.run_id}'")
    assert {run.info.run_name for run in children} == {"irft_train@r3", "evaluate@irft-r3"}
    assert len(client.search_runs(["1"], f"tags.`{PARENT}` = '{first.info.run_id}'")) == 13


def test_a_store_from_before_is_brought_into_this_form_and_loses_nothing(finished: Project) -> None:
    finished.ensure()
    client, parent = MlflowClient(finished.uri), pipeline_run(finished)
    for version in finished.versions().values():  # as they were
        for name, value in figures_of(version.tags).items():
            client.set_model_version_tag("quickstart", version.version, f"metric.{name}", f"{value:.6g}")
        client.delete_model_version_tag("quickstart", version.version, FIGURES)
        client.update_model_version(
            "quickstart", version.version, "my own words" if str(version.version) == "1" else ""
        )
    for run in client.search_runs(["1"], f"tags.`{PARENT}` LIKE '%'"):
        for tag in (PARENT, "mlflow.source.name", "mlflow.source.type"):
            client.delete_tag(run.info.run_id, tag)
    client.delete_run(parent.info.run_id)
    with open_registry(finished.uri) as registry:
        before = registry.find("models:/quickstart@challenger").metrics
    assert before["reward_mean"] == 0.5

    assert "(0 runs and 0 versions are new)" in finished.ensure()
    again = pipeline_run(finished)
    children = client.search_runs(["1"], f"tags.`{PARENT}` = '{again.info.run_id}'")
    assert len(children) == 13
    assert {run.data.tags["mlflow.source.type"] for run in children} == {"LOCAL"}
    with open_registry(finished.uri) as registry:
        assert registry.find("models:/quickstart@challenger").metrics == before
    versions = {str(each.version): each for each in finished.versions().values()}
    assert not any(tag.startswith("metric.") for each in versions.values() for tag in each.tags)
    assert [each.description == "my own words" for each in versions.values()].count(True) == 1
    assert all(each.description for each in versions.values())
    assert "(0 runs and 0 versions are new)" in finished.ensure()
    assert len(client.search_runs(["1"])) == 13 + 1


def test_a_restored_stage_keeps_the_times_of_the_run_that_made_its_output(finished: Project) -> None:
    earlier = {"stage": "sft", "seconds": 60.0, "ended": 1.7e9, "output_md5": "md5-of-models/sft"}
    finished.write(".juicer/cost_ledger.json", {"sft": {"a state": earlier}})
    finished.write(".juicer/costs/sft.json", {"stage": "sft", "seconds": 2.0, "output_md5": "another"})
    run = next(run for run in finished.records().runs if run.name == "sft")
    assert (run.started, run.ended) == (1.7e9 - 60, 1.7e9)
    assert run.metrics["cost/seconds"] == 60
    assert "cost/ended" not in run.metrics


def test_a_run_names_its_data_by_the_md5_of_dvc_and_an_evaluation_shows_its_samples(finished: Project) -> None:
    finished.ensure()
    client = MlflowClient(finished.uri)
    runs = {run.info.run_name: run for run in client.search_runs(["1"])}
    (data,) = runs["irft_train@r1"].inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest, data.dataset.source_type) == ("data/curated", "0", "dvc")
    assert [tag.value for tag in data.tags] == ["training"]
    (judged_on,) = runs["evaluate@sft"].inputs.dataset_inputs
    assert [tag.value for tag in judged_on.tags] == ["evaluation"]
    table = client.load_table("1", "samples.json", [runs["evaluate@sft"].info.run_id])
    assert table["response"].tolist() == ["sft knows"]


def test_logged_models_carry_parameters_and_results_by_which_mlflow_compares_rounds(finished: Project) -> None:
    finished.ensure()
    client, best_first = (
        MlflowClient(finished.uri),
        [{"field_name": "metrics.held_out/reward_mean", "ascending": False}],
    )
    found = client.search_logged_models(["1"], order_by=best_first)
    # The scores are -1.5, or that plus the number of the round.
    assert [model.name for model in found[:1]] == ["irft-r2"]
    assert {model.name for model in found} == {"irft-r2", "irft-r1", "rft-r1", "sft-matched", "sft"}
    best = found[0]
    assert best.params == {"seed": "0", "sft.epochs": "2.0", "sft.lora": "null", "scorer.kind": "beaver"}
    results = {metric.key: metric for metric in best.metrics}
    known = [name for name, value in metrics(prompts=300, reward_mean=0.5).items() if value is not None]
    assert set(results) == {f"{split}/{name}" for split in ("held_out", "validation") for name in known}
    result, runs = results["held_out/reward_mean"], {run.info.run_id: run for run in client.search_runs(["1"])}
    assert (result.value, result.dataset_name, result.dataset_digest) == (0.5, "data/curated", "0")
    assert runs[result.run_id].info.run_name == "evaluate@irft-r2"
    assert runs[best.source_run_id].info.run_name == "irft_train@r2"
    above = client.search_logged_models(["1"], filter_string="metrics.`held_out/reward_mean` > -1")
    assert {model.name for model in above} == {"irft-r1", "irft-r2", "rft-r1"}


def test_a_second_call_adds_no_logged_model_and_no_result(finished: Project) -> None:
    finished.ensure()
    client = MlflowClient(finished.uri)
    before = [(model.model_id, len(model.metrics)) for model in client.search_logged_models(["1"])]
    finished.ensure()
    finished.choose("rft-r1")  # so that MLflow is asked
    finished.ensure()
    assert [(model.model_id, len(model.metrics)) for model in client.search_logged_models(["1"])] == before
    judge_by(finished, "1")
    assert "(6 runs and 0 versions are new)" in finished.ensure()
    found = {model.name: model for model in client.search_logged_models(["1"])}
    assert {metric.dataset_digest for metric in found["sft"].metrics} == {"0", "1"}, (
        "a new evaluation of the same model"
    )
    assert len(found) == len(before)


def test_models_judged_by_the_same_prompts_and_scorer_say_so(finished: Project) -> None:
    finished.ensure()
    versions = finished.versions()
    assert versions["sft"].tags["evaluated_on"] == versions["rft-r1"].tags["evaluated_on"]
    for dependency in finished.stages["evaluate@sft"]["deps"]:
        dependency["md5"] = "1" if dependency["path"] == "data/curated" else dependency["md5"]
    finished.choose("irft-r2")
    finished.ensure()
    versions = finished.versions()
    assert versions["sft"].tags["evaluated_on"] != versions["rft-r1"].tags["evaluated_on"]


def judge_by(finished: Project, data: str) -> None:
    """As if all models were evaluated on other data, with the same figures."""
    for name, stage in finished.stages.items():
        for dependency in stage["deps"] if name.startswith("evaluate@") else []:
            dependency["md5"] = data if dependency["path"] == "data/curated" else dependency["md5"]
    finished.choose("irft-r2")


def test_the_same_figures_by_other_parameters_are_runs_of_their_own_that_a_version_is_compared_with(
    finished: Project,
) -> None:
    finished.ensure()
    judge_by(finished, "1")
    assert "(6 runs and 0 versions are new)" in finished.ensure()
    assert "(0 runs and 0 versions are new)" in finished.ensure()
    with open_registry(finished.uri) as registry:
        base = registry.figures_of(registry.find("models:/quickstart@challenger"), "base")
    assert base["reward_mean"] == -1.5
    judge_by(finished, "0")
    assert "(0 runs and 0 versions are new)" in finished.ensure(), "what was there before still counts"


def git(*arguments: str) -> str:
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def commit_of(finished: Project) -> tuple[str, str]:
    """The commit of a version, once all of this is registered, and whether it is said to have been changed."""
    finished.ensure()
    tags = finished.versions()["sft"].tags
    return tags["git_commit"], tags["git_dirty"]


def change(path: Path) -> None:
    """Another text of the same meaning."""
    path.write_text(f"{path.read_text()}# changed\n")


@pytest.fixture
def committed(finished: Project) -> Project:
    """A project in git, on the branch main."""
    git("init", "-q", "-b", "main")
    git("add", "dvc.yaml", "juicer")
    git("commit", "-qm", "first")
    return finished


def test_parameters_and_lock_are_kept_with_the_run_and_are_no_uncommitted_code(committed: Project) -> None:
    git("add", "params.yaml", "dvc.lock")
    git("commit", "-qm", "settings")
    for name in ("params.yaml", "dvc.lock"):
        with Path(name).open("a") as file:
            file.write("# changed\n")
    assert git_tags()["git_dirty"] == "false"
    next(Path("juicer").glob("*.py")).write_text("changed")
    assert git_tags()["git_dirty"] == "true"


def test_the_commit_of_a_version_follows_once_its_code_is_committed(committed: Project) -> None:
    change(committed.folder / "dvc.yaml")
    assert commit_of(committed) == (git("rev-parse", "HEAD"), "true")
    git("commit", "-qam", "second")
    assert commit_of(committed) == (git("rev-parse", "HEAD"), "false")


def test_the_commit_of_a_version_stays_while_it_leads_to_what_is_checked_out(committed: Project) -> None:
    first = commit_of(committed)
    git("commit", "-q", "--allow-empty", "-m", "second")
    assert commit_of(committed) == first


def test_a_commit_that_was_squashed_away_gives_place_to_the_one_that_was_merged(committed: Project) -> None:
    git("checkout", "-qb", "feature")
    change(committed.folder / "dvc.yaml")
    git("commit", "-qam", "second")
    assert commit_of(committed) == (git("rev-parse", "HEAD"), "false")
    git("checkout", "-q", "main")
    git("merge", "-q", "--squash", "feature")
    git("commit", "-qm", "feature")
    committed.stages["sft"]["deps"][0]["md5"] = "another"
    committed.choose("irft-r2")
    assert commit_of(committed) == (git("rev-parse", "HEAD"), "false")
    with open_registry(committed.uri) as registry:
        kept = registry.kept_text(registry.find("models:/quickstart/1"), "dvc.lock")
    assert "md5: another" in kept, "a restoration compares with the code of that commit"


def test_a_checkout_that_lacks_what_main_has_leaves_the_commit_that_is_on_main(committed: Project) -> None:
    git("commit", "-q", "--allow-empty", "-m", "second")
    git("update-ref", "refs/remotes/origin/main", "HEAD")
    git("symbolic-ref", "refs/remotes/origin/HEAD", "refs/remotes/origin/main")
    on_main = commit_of(committed)
    git("checkout", "-q", "--detach", "HEAD~1")
    git("commit", "-q", "--allow-empty", "-m", "not merged")
    assert commit_of(committed) == on_main


def test_no_weights_are_copied(finished: Project) -> None:
    finished.ensure()
    stored = [path for path in (finished.folder / "mlruns").rglob("*") if path.is_file()]
    names = Counter(path.name for path in stored)
    assert names == {"MLmodel": 5, "dvc.lock": 6, "params.yaml": 6, "samples.json": 6, "summary.json": 1}
    assert sum(path.stat().st_size for path in stored) < len(WEIGHTS)


def test_the_challenger_follows_the_evaluation(finished: Project) -> None:
    client = MlflowClient(finished.uri)
    finished.ensure()
    assert client.get_model_version_by_alias("quickstart", "challenger").tags["model"] == "irft-r2"
    finished.choose("rft-r1")
    assert "(0 runs and 0 versions are new)" in finished.ensure()
    assert client.get_model_version_by_alias("quickstart", "challenger").tags["model"] == "rft-r1"
    finished.choose("base")
    finished.ensure()
    assert client.get_registered_model("quickstart").aliases == {}


def test_a_new_evaluation_changes_the_metrics_of_a_version_and_a_new_model_is_a_new_version(finished: Project) -> None:
    finished.ensure()
    finished.summary["models"][4]["reward_mean"] = 7.0
    finished.stages["irft_train@r1"]["outs"][0]["md5"] = "another"
    finished.choose("irft-r2")
    assert "(1 runs and 1 versions are new)" in finished.ensure()
    version = finished.versions()["irft-r2"]
    assert figures_of(version.tags)["reward_mean"] == 7
    assert "| reward_mean | 7 |" in version.description
    versions = MlflowClient(finished.uri).search_model_versions("name='quickstart'")
    rounds = [version.tags["dvc_md5"] for version in versions if version.tags["model"] == "irft-r1"]
    assert sorted(rounds) == ["another", "md5-of-models/irft/r1"]


def test_votes_reach_the_version_and_its_pipeline_run_and_leave_it_when_they_no_longer_count(finished: Project) -> None:
    finished.ensure()
    client = MlflowClient(finished.uri)

    def pipeline_run() -> Run:
        (found,) = client.search_runs(["1"], "tags.stage = 'pipeline'")
        return found

    key = "champion/voted_win_rate"
    assert key not in pipeline_run().data.metrics
    row = next(row for row in finished.summary["models"] if row["name"] == "irft-r2")
    row |= {"voted_win_rate": 0.75, "voted_win_rate_sem": 0.05, "voted_win_rate_prompts": 40}
    finished.choose("irft-r2")
    assert "(0 runs and 0 versions are new)" in finished.ensure()
    assert figures_of(finished.versions()["irft-r2"].tags)["voted_win_rate"] == 0.75
    assert pipeline_run().data.metrics[key] == 0.75
    for name in ("voted_win_rate", "voted_win_rate_sem", "voted_win_rate_prompts"):
        del row[name]
    finished.choose("irft-r2")
    finished.ensure()
    assert "voted_win_rate" not in figures_of(finished.versions()["irft-r2"].tags)


def test_costs_of_another_run_are_not_those_of_a_restored_output(finished: Project) -> None:
    finished.write(".juicer/costs/sft.json", {"stage": "sft", "seconds": 2.0, "output_md5": "another"})
    run = next(run for run in finished.records().runs if run.name == "sft")
    assert run.started is None
    assert "cost/seconds" not in run.metrics


def test_an_output_that_is_not_what_dvc_lock_says_is_not_registered(finished: Project) -> None:
    finished.hash()
    check_recorded(finished.records(), DvcLock.read(Path("dvc.lock")))
    (finished.folder / "models/irft/r1/model.safetensors").write_bytes(b"Weights" + WEIGHTS[7:])
    with pytest.raises(InputError, match=r"^models/irft/r1: its md5 is .*, but irft_train@r1 made"):
        check_recorded(finished.records(), DvcLock.read(Path("dvc.lock")))


def test_costs_of_an_evaluation_are_those_of_the_run_that_made_that_very_file(finished: Project) -> None:
    for name, md5 in (("sft", "md5-of-evaluation/models/sft.json"), ("base", "another")):
        costs = {"stage": f"evaluate@{name}", "seconds": 2.0, "response_tokens": 50, "output_md5": md5}
        finished.write(f".juicer/costs/evaluate@{name}.json", costs)
    # DVC copies a file into its cache and back, so its time is later than the costs'.
    later = time.time() + 10
    os.utime(finished.folder / "evaluation/models/sft.json", (later, later))
    runs = {run.name: run for run in finished.records().runs}
    assert runs["evaluate@sft"].metrics["cost/response_tokens_per_second"] == 25
    assert "cost/seconds" not in runs["evaluate@base"].metrics


@pytest.mark.parametrize("status", ["RUNNING", "KILLED", "FINISHED"])
def test_a_run_that_grew_while_its_stage_ran_is_completed_however_it_was_left(finished: Project, status: str) -> None:
    client = MlflowClient(finished.uri)
    record = next(run for run in finished.records().runs if run.name == "irft_train@r1")
    grown = client.create_run(client.create_experiment("quickstart"), tags={ATTEMPT: record.attempt}).info.run_id
    for step in (1, 2):
        client.log_metric(grown, "train/loss", 1 / step, step=step)
    if status != "RUNNING":
        client.set_terminated(grown, status)
    assert "(13 runs and 5 versions are new)" in finished.ensure()
    run = client.get_run(grown)
    assert (run.info.status, run.data.tags[KEY]) == ("FINISHED", record.key)
    assert run.data.metrics["cost/seconds"] == 12.5
    assert sorted(point.step for point in client.get_metric_history(grown, "train/loss")) == list(range(1, 61))
    assert run.data.tags[PARENT] == pipeline_run(finished).info.run_id
    assert len(client.search_runs(["1"])) == 13 + 1
    assert "(0 runs and 0 versions are new)" in finished.ensure()


def test_a_run_that_was_interrupted_ends_killed_and_is_made_anew(
    finished: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_batch", interrupt)
        with pytest.raises(KeyboardInterrupt):
            finished.ensure()
    assert "(13 runs and 5 versions are new)" in finished.ensure()
    runs = MlflowClient(finished.uri).search_runs(["1"])
    assert sorted(run.info.status for run in runs) == ["FINISHED"] * (13 + 1) + ["KILLED"]


def test_a_model_that_no_stage_made_is_refused(finished: Project) -> None:
    del finished.stages["irft_train@r2"]
    finished.choose("irft-r2")
    with pytest.raises(InputError, match="no training stage makes models/irft/r2"):
        finished.records()


def test_a_store_that_mlflow_refuses_is_one_line_without_the_password(finished: Project) -> None:
    with pytest.raises(InputError, match="MLflow") as error:
        ensure(finished.records(), "nonsense://user:secret@nowhere", "quickstart", "quickstart")
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql+psycopg2://juicer:s3cr3t@db/mlflow", "postgresql+psycopg2://db/mlflow"),
        ("postgresql+psycopg2://juicer:s3/cr3t@db/mlflow", "postgresql+psycopg2://db/mlflow"),
        ("http://juicer:s3@cr3t@host/", "http://host/"),
        ("postgresql://db/x?user=juicer&password=s3cr3t&y=1", "postgresql://db/x?user=juicer&password=***&y=1"),
        ("refused by https://host/?access_token=s3cr3t (401)", "refused by https://host/?access_token=*** (401)"),
        ("sqlite:///mlflow.db", "sqlite:///mlflow.db"),
    ],
)
def test_no_password_of_an_address_is_shown_wherever_it_stands(address: str, shown: str) -> None:
    assert without_password(address) == shown


def test_a_store_whose_driver_is_not_installed_says_how_to_get_it(finished: Project) -> None:
    with pytest.raises(InputError, match=r"the store needs psycopg, which is not installed \(pip install"):
        ensure(finished.records(), "postgresql+psycopg://user:secret@nowhere/store", "quickstart", "quickstart")
