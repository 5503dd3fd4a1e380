"""The stage pairwise as a command: a judge compares the responses of two models, and the table says what it found."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

from juicer.data import demonstrations
from juicer.data.demonstrations import Demonstration
from juicer.evaluation.results import EvaluatedModel
from juicer.recipe.activation import activate
from juicer.recipe.graph import ABSENT
from juicer.voting.ballot import ballot
from juicer.voting.votes import Vote, append, file_of, now
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
    # The same rows are read as validation prompts, on which the first of the prompts has another response.
    validation = {**rows, "response": [*responses[:1], *["equal"] * (len(responses) - 1)]}
    values = {**evaluation(name, "irft", 1), "held_out_rows": rows, "validation_rows": validation}
    path.write_text(json.dumps(values))
    return path


def judge() -> list[str]:
    """The change of a recipe that adds the judge."""
    return ["pairwise=" + json.dumps({"kind": "command", "command": [sys.executable, "judge.py"]})]


def cast(choice: Literal["first", "second"], voter: str, numbers: Sequence[int] = range(len(ROWS))) -> None:
    """Vote on the responses of the two models as they are."""
    pair = [EvaluatedModel.read(Path(f"evaluation/models/{name}.json")) for name in ("irft-r1", "sft-matched")]
    found = ballot(*pair, Path("data/curated/held_out.jsonl"))
    for question in (found.questions[number] for number in numbers):
        if not question.is_same:
            vote = Vote(
                id=question.id, choice=choice, voter=voter, time=now(), left="first",
                first=question.first.digest, second=question.second.digest,
            )  # fmt: skip
            append(file_of(found.first, found.second), vote)


@pytest.fixture
def asked(project: Path) -> list[str]:
    """A project whose recipe has a judge that prefers the longer response; the stage's arguments."""
    Path("judge.py").write_text(JUDGE)
    activate(Path("recipes/quickstart.yaml"), judge(), Path("params.yaml"))
    Path("data/curated").mkdir(parents=True, exist_ok=True)
    for split in ("held_out", "validation"):
        demonstrations.write(Path(f"data/curated/{split}.jsonl"), ROWS)
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
    assert (record["validation"]["questions"], record["validation"]["same"]) == (2, 11)
    assert record["validation"]["win_rate"] == pytest.approx((1 + 11 * 0.5) / 12, rel=1e-5)
    row = ["--row", "evaluation/models/irft-r1.json", "--pairwise", "evaluation/pairwise/irft-r1.json"]
    done = run("tasks.tabulate", "--previous", ABSENT, *row, "--out", "table.json")
    assert done.returncode == 0, done.stderr
    (model,) = json.loads(Path("table.json").read_text())["models"]
    assert model["pairwise"]["win_rate"] == record["win_rate"] and model["pairwise"]["against"] == "sft-matched"
    assert model["pairwise"]["validation_win_rate"] == record["validation"]["win_rate"]
    assert "held_out_rows" not in model and "validation_rows" not in model


def test_votes_on_the_responses_of_both_stand_in_the_table(asked: list[str]) -> None:
    cast("first", voter="Ada")
    cast("second", voter="Bob", numbers=range(3))
    pair = ["--row", "evaluation/models/irft-r1.json", "--against", "evaluation/models/sft-matched.json"]
    command = ["tasks.tabulate", "--previous", ABSENT, *pair, "--data", "data/curated", "--out", "table.json"]
    assert run(*command, "--votes", "votes").returncode == 0
    (model,) = json.loads(Path("table.json").read_text())["models"]
    voted = model["voted"]
    assert (voted["against"], voted["votes"], voted["prompts"], voted["voters"]) == ("sft-matched", 14, 11, 2)
    assert voted["win_rate"] == pytest.approx((8 + 3 * 0.5) / 11, rel=1e-5)
    write("irft-r1", ["new"] * 12)
    assert run(*command, "--votes", "votes").returncode == 0
    (model,) = json.loads(Path("table.json").read_text())["models"]
    assert (model["voted"]["votes"], model["voted"]["outdated"], model["voted"]["win_rate"]) == (0, 14, None)


def test_validation_prompts_are_left_out_where_the_judge_is_not_to_choose(asked: list[str]) -> None:
    activate(Path("recipes/quickstart.yaml"), [*judge(), "pairwise.chooses=false"], Path("params.yaml"))
    assert run(*asked).returncode == 0
    assert "validation" not in found() and found()["questions"] == 22


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
