"""The leaderboard on questions of our own: its numbers are those of lm-eval's command line, and reach the report."""

import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from juicer.evaluation.benchmarks import COLUMNS, sources
from juicer.recipe.activation import activate
from juicer.registry.evaluate_version import measure_leaderboard
from tasks.mirror import REVISIONS, write_mirror
from tests import python
from tests.example_benchmarks import write_hub, write_model
from tests.example_evaluations import table, write_inputs

ROOT = Path(__file__).resolve().parents[2]
FEWSHOT = 2
"""For all but truthfulqa, whose examples are fixed; so that one call of the command line can measure all columns."""


def call(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def measuring(out: str, mirror: str = "mirror") -> list[str]:
    """The stage's command, without the interpreter."""
    model = ["--name", "base", "--method", "base", "--round", "0", "--policy", "model"]
    return ["tasks.leaderboard", *model, "--mirror", mirror, "--out", out]


def measure(folder: Path, out: str, mirror: str = "mirror") -> subprocess.CompletedProcess[str]:
    return python.run(folder, *measuring(out, mirror), environment=python.environment(ROOT), check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a mirror, a model, and a recipe that gives every benchmark the same few-shot count."""
    folder = tmp_path_factory.mktemp("leaderboard")
    write_hub(folder / "mirror")
    write_model(folder / "model")
    fewshot = [f"leaderboard.harness.{name}.fewshot={FEWSHOT}" for name in COLUMNS if name != "truthfulqa"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        activate(ROOT / "recipes/quickstart.yaml", fewshot, folder / "params.yaml")
    return folder


@pytest.fixture(scope="module")
def results(folder: Path) -> dict[str, Any]:
    """What the stage wrote."""
    done = measure(folder, "ours")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "leaderboard: mmlu" in done.stdout
    return json.loads((folder / "ours/results.json").read_text())


@pytest.fixture(scope="module")
def command_line(folder: Path) -> Path:
    """What lm-eval's command line wrote for the same model, data, few-shot count and seed."""
    done = call(
        folder / "mirror",
        *("lm_eval", "run", "--model", "hf", "--device", "cpu", "--batch_size", "auto", "--seed", "1234"),
        *("--model_args", f"pretrained={folder / 'model'},dtype=float32", "--num_fewshot", str(FEWSHOT)),
        *("--tasks", ",".join(task for tasks in COLUMNS.values() for task in tasks)),
        *("--log_samples", "--output_path", str(folder / "theirs")),
        HF_DATASETS_CACHE=str(folder / "cache"),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "theirs"


@pytest.mark.slow
def test_the_numbers_are_those_of_the_command_line(results: dict[str, Any], command_line: Path) -> None:
    (path,) = command_line.rglob("results_*.json")
    theirs = json.loads(path.read_text())
    assert len(results["tasks"]) == 63
    for task, ours in results["tasks"].items():
        expected = theirs["results"][task]
        assert {key: expected[key] for key in ours["metrics"]} == pytest.approx(ours["metrics"], abs=1e-12), task
        assert (ours["fewshot"], ours["version"]) == (theirs["n-shot"][task], theirs["versions"][task])
        assert ours["questions"] == theirs["n-samples"][task]["effective"]
    easy, challenge = results["tasks"]["arc_easy"], results["tasks"]["arc_challenge"]
    right = sum(round(task["metrics"]["acc_norm,none"] * task["questions"]) for task in (easy, challenge))
    columns = {name: column["score"] / 100 for name, column in results["columns"].items()}
    assert columns == pytest.approx(
        {
            "arc": right / (easy["questions"] + challenge["questions"]),
            "truthfulqa": theirs["results"]["truthfulqa_mc1"]["acc,none"],
            "winogrande": theirs["results"]["winogrande"]["acc,none"],
            "gsm8k": theirs["results"]["gsm8k"]["exact_match,strict-match"],
            "hellaswag": theirs["results"]["hellaswag"]["acc_norm,none"],
            "mmlu": theirs["groups"]["mmlu"]["acc,none"],
        },
        abs=1e-12,
    )
    assert results["average"] == pytest.approx(100 * sum(columns.values()) / 6)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["arc_easy", "gsm8k", "mmlu_anatomy"])
def test_every_answer_is_recorded_and_is_the_command_line_s(
    folder: Path, results: dict[str, Any], command_line: Path, task: str
) -> None:
    with gzip.open(folder / f"ours/samples/{task}.jsonl.gz", "rt") as file:
        ours = [json.loads(line) for line in file]
    (path,) = command_line.rglob(f"samples_{task}_*.jsonl")
    theirs = [json.loads(line) for line in path.read_text().splitlines()]
    filters = {sample["filter"] for sample in ours}
    assert len(ours) == results["tasks"][task]["questions"] * len(filters)
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine["doc"], mine["prompt_hash"], mine["filter"]) == (
            other["doc"],
            other["prompt_hash"],
            other["filter"],
        )
        if task == "gsm8k":
            assert mine["resps"] == other["resps"]
        else:
            mine_logs = [float(answer[0][0]) for answer in mine["resps"]]
            assert [float(answer[0][0]) for answer in other["resps"]] == pytest.approx(mine_logs, abs=1e-4)


@pytest.mark.slow
def test_an_interrupted_run_goes_on_after_the_last_column_to_the_same_bytes(
    folder: Path, results: dict[str, Any]
) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JUICER_CHECKPOINT_SECONDS": "0"}
    command = [sys.executable, "-m", *measuring("again")]
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        for line in first.stdout:
            if line.startswith("leaderboard: winogrande"):
                first.kill()
    assert not (folder / "again").exists()
    second = measure(folder, "again")
    assert second.returncode == 0, second.stderr[-3000:]
    assert "resuming from the checkpoint" in second.stdout
    ours, again = ({path.name: path.read_bytes() for path in (folder / out).rglob("*.*")} for out in ("ours", "again"))
    assert len(again) == 64
    assert again == ours


@pytest.mark.slow
def test_an_evaluation_on_demand_measures_the_same_where_the_recipe_has_a_leaderboard(
    folder: Path, results: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fewshot = [f"leaderboard.harness.{name}.fewshot={FEWSHOT}" for name in COLUMNS if name != "truthfulqa"]
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)
    model, said = {"model": "base", "method": "base", "round": "0", "dvc_md5": "0"}, list[str]()
    activate(ROOT / "recipes/quickstart.yaml", fewshot, Path("params.yaml"))
    assert measure_leaderboard(model, folder / "model", said.append) == {}
    more = ["leaderboard.enabled=true", f"leaderboard.mirror={folder / 'mirror'}"]
    activate(ROOT / "recipes/quickstart.yaml", [*fewshot, *more], Path("params.yaml"))
    found = measure_leaderboard(model, folder / "model", said.append)
    assert found["leaderboard_average"] == results["average"]
    for name, column in results["columns"].items():
        assert (found[f"leaderboard_{name}"], found[f"leaderboard_{name}_sem"]) == (column["score"], column["error"])
    assert any("mmlu" in line for line in said)


def test_versions_are_kept(results: dict[str, Any]) -> None:
    assert set(results["harness"]) == {"lm_eval", "transformers", "torch", "datasets"}
    assert results["tasks"]["gsm8k"]["version"] == 3.0
    assert results["columns"]["arc"]["fewshot"] == FEWSHOT
    assert results["seed"] == 1234


def test_the_table_reaches_the_report_beside_the_paper_s_row(folder: Path, results: dict[str, Any]) -> None:
    inputs = write_inputs(folder, table(1, 0))
    (folder / "params.yaml").write_text((folder / "params.yaml").read_text().replace("paper: false", "paper: true"))
    row = ("tasks.tabulate", "--previous", "recipes/absent", "--row", "ours/results.json", "--out", "tables/base.json")
    assert call(folder, *row).returncode == 0
    done = call(folder, "tasks.report", "--leaderboard", "tables/base.json", *inputs)
    assert done.returncode == 0, done.stderr
    summary = json.loads((folder / "metrics/summary.json").read_text())
    (model,) = summary["leaderboard"]["models"]
    assert model["mmlu"] == pytest.approx(results["columns"]["mmlu"]["score"], rel=1e-5)
    assert model["paper"]["average"] == 59.48
    page = (folder / "report/report.html").read_text()
    assert "the paper: zephyr-7b-sft-full" in page
    assert f"{model['average']:.2f}" in page
    assert json.loads((folder / "metrics/metrics.json").read_text())["leaderboard"]["base"]["arc"] == model["arc"]


def test_a_missing_file_is_named_with_the_command_that_makes_it(folder: Path) -> None:
    shutil.copytree(folder / "mirror", folder / "partial")
    (folder / "partial/openai/gsm8k/main/test.jsonl").unlink()
    done = measure(folder, "nothing", "partial")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "error: partial/openai/gsm8k/main/test.jsonl: the mirror has no such file "
        "(make the mirror where there is a network: python -m tasks.mirror --out partial)"
    )
    assert not (folder / "nothing").exists()


def test_a_mirror_holds_what_the_hub_has(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A folder that is named like a data set stands in for it.
    monkeypatch.chdir(folder / "mirror")
    known = [source for source in sources() if source.dataset != "cais/mmlu" or source.configuration == "anatomy"]
    rows = write_mirror(tmp_path, known, REVISIONS)
    assert len(rows) == sum(len(source.splits) for source in known)
    for name in rows:
        assert (tmp_path / name).read_bytes() == (folder / "mirror" / name).read_bytes(), name
    assert json.loads((tmp_path / "mirror.json").read_text()) == {"revisions": REVISIONS, "rows": rows}
