"""The stage pairwise as a command: a judge compares the responses of two models, and the table says what it found."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from juicer.data import demonstrations
from juicer.data.demonstrations import Demonstration
from juicer.recipe.activation import activate
from juicer.recipe.graph import ABSENT
from tests.example_evaluations import evaluation

JUDGE = """
import json, sys
open("asked", "a").write("once ")
for line in sys.stdin:
    asked = json.loads(line)
    first, second = asked["response_1"], asked["response_2"]
    print(json.dumps({"better": "tie" if len(first) == len(second) else "1" if len(first) > len(second) else "2"}))
"""
ROWS = [Demonstration.make([{"role": "user", "content": f"question {number}"}], "answer") for number in range(12)]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A stage's program."""
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)


def write(name: str, responses: list[str]) -> Path:
    """An evaluation with these responses."""
    rows = {
        "id": [row.id for row in ROWS],
        "demonstration_tokens": [1] * len(ROWS),
        "gap": [None] * len(ROWS),
        "gap_per_token": [None] * len(ROWS),
        "kl": [0.0] * len(ROWS),
        "response_tokens": [1] * len(ROWS),
        "ended": [True] * len(ROWS),
        "empty": [False] * len(ROWS),
        "repeated": [False] * len(ROWS),
        "response": responses,
    }
    path = Path(f"evaluation/models/{name}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**evaluation(name, "irft", 1), "held_out_rows": rows}))
    return path


@pytest.fixture
def asked(project: Path) -> list[str]:
    """A project whose recipe has a judge that prefers the longer response; the stage's arguments."""
    Path("judge.py").write_text(JUDGE)
    judge = json.dumps({"kind": "command", "command": [sys.executable, "judge.py"]})
    activate(Path("recipes/quickstart.yaml"), [f"pairwise={judge}"], Path("params.yaml"))
    Path("data/curated").mkdir(parents=True, exist_ok=True)
    demonstrations.write(Path("data/curated/held_out.jsonl"), ROWS)
    model = write("irft-r1", ["a long response"] * 9 + ["short", "same", "equal 1"])
    control = write("sft-matched", ["a response"] * 9 + ["a long one", "same", "equal 2"])
    given = ["--judge", ABSENT, "--rubric", ABSENT, "--out", "evaluation/pairwise/irft-r1.json"]
    return ["tasks.pairwise", "--model", str(model), "--against", str(control), "--data", "data/curated", *given]


def found() -> Any:
    """What the stage wrote."""
    return json.loads(Path("evaluation/pairwise/irft-r1.json").read_text())


def test_every_prompt_is_judged_in_both_orders_and_the_table_has_the_win_rate(asked: list[str]) -> None:
    done = run(*asked)
    assert done.returncode == 0, done.stderr
    assert "irft-r1 wins 83.3% against sft-matched on 12 prompts" in done.stdout
    record = found()
    assert (record["questions"], record["same"], record["prompts"], record["failed"]) == (22, 1, 12, 0)
    assert record["win_rate"] == pytest.approx((9 + 0 + 0.5 + 0.5) / 12, rel=1e-5)
    row = ["--row", "evaluation/models/irft-r1.json", "--pairwise", "evaluation/pairwise/irft-r1.json"]
    done = run("tasks.tabulate", "--previous", ABSENT, *row, "--out", "table.json")
    assert done.returncode == 0, done.stderr
    (model,) = json.loads(Path("table.json").read_text())["models"]
    assert model["pairwise"]["win_rate"] == record["win_rate"] and model["pairwise"]["against"] == "sft-matched"
    assert "held_out_rows" not in model


def test_the_same_questions_are_not_asked_twice(asked: list[str]) -> None:
    assert run(*asked).returncode == 0
    first = Path("evaluation/pairwise/irft-r1.json").read_bytes()
    assert run(*asked).returncode == 0
    assert Path("evaluation/pairwise/irft-r1.json").read_bytes() == first
    assert Path("asked").read_text().split() == ["once"]


def test_a_judge_that_says_nothing_stops_the_stage_and_leaves_no_file(asked: list[str]) -> None:
    Path("judge.py").write_text("import sys\nfor line in sys.stdin: print('I cannot say.')\n")
    done = run(*asked)
    assert done.returncode == 1 and not Path("evaluation/pairwise/irft-r1.json").exists()
    assert "22 of 22 questions have no verdict: no verdict in the answer 'I cannot say.'" in done.stderr
    assert len(done.stderr.strip().splitlines()[-1]) < 600


def test_evaluations_without_responses_are_refused_with_what_to_do(asked: list[str]) -> None:
    write("irft-r1", [])
    done = run(*asked)
    assert done.returncode == 1
    assert "the evaluation of irft-r1 has no responses (evaluate it again: dvc repro evaluate@irft-r1)" in done.stderr
