"""The fault harness: known wrongs are found, and a few faults of every sort leave nothing wrong."""

import subprocess
import sys
from pathlib import Path

import pytest

from dev.faults.table import BEGIN, END, PAGE, RESULTS, Result, as_markdown, as_text
from dev.faults.trials import INJECTED, KINDS, SHORT, trials
from juicer.runtime.files import read_json

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_a_few_kills_and_edits_leave_nothing_wrong_and_every_planted_wrong_is_found() -> None:
    command = [sys.executable, "-m", "dev.faults", "--short", "--inject"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"all {len(INJECTED) - 1} planted wrongs were found" in done.stdout


def test_at_least_two_hundred_kills_are_tried() -> None:
    assert sum(kind.trials for kind in KINDS if kind.kill) >= 200
    assert set(SHORT) <= {kind.name for kind in KINDS}


def test_the_same_seed_tries_the_same_and_another_in_another_order() -> None:
    assert trials(KINDS, 1) == trials(KINDS, 1)
    assert [each.number for each in trials(KINDS, 1)] != [each.number for each in trials(KINDS, 2)]


@pytest.mark.parametrize(
    ("verdict", "line"), [("wrong", "1        0        1        0"), ("manual", "1        0        0")]
)
def test_a_failure_is_counted_and_told(verdict: str, line: str) -> None:
    text = as_text([Result("kill: stage", 3, True, verdict, ["the model is another"], "at step 2", 1.0)])
    assert line in text
    assert f"{verdict}: kill: stage 3 (at step 2): the model is another" in text


def test_the_table_of_the_page_is_that_of_the_results() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page.split(BEGIN)[1].split(END)[0].strip() == as_markdown(read_json(RESULTS))
