"""A program as the pairwise judge: a question per line in, an answer per line out."""

import sys
from pathlib import Path

import pytest

from juicer.judging.judges import Command
from juicer.judging.question import RUBRIC, Question, verdict_of
from juicer.runtime.errors import InputError
from juicer.settings.pairwise import PairwiseSettings


def question() -> Question:
    """A question about two responses."""
    return Question([{"role": "user", "content": "What is it?"}], "good", "bad")


def test_a_program_is_asked_line_by_line(tmp_path: Path) -> None:
    script = tmp_path / "judge.py"
    script.write_text(
        "import json, sys\n"
        "for line in sys.stdin:\n"
        "    asked = json.loads(line)\n"
        "    assert asked['rubric'] and asked['prompt'][0]['role'] == 'user'\n"
        "    print(json.dumps({'better': '1' if asked['response_1'] == 'good' else '2'}))\n"
    )
    command = PairwiseSettings.parse({"kind": "command", "command": [sys.executable, str(script)]}, "pairwise")
    answers = dict(Command(command).ask([question(), question().swapped()], RUBRIC))
    assert [verdict_of(answers[place].text) for place in (0, 1)] == ["1", "2"]


@pytest.mark.parametrize(
    ("program", "problem"),
    [
        ("print('{}')", "was asked 2 questions and wrote 1 lines"),
        ("import sys; sys.exit('out of memory')", "ends with code 1: out of memory"),
    ],
)
def test_a_program_that_fails_is_an_error_of_one_line(program: str, problem: str) -> None:
    command = PairwiseSettings.parse({"kind": "command", "command": [sys.executable, "-c", program]}, "pairwise")
    with pytest.raises(InputError, match=problem):
        list(Command(command).ask([question(), question()], RUBRIC))
    absent = PairwiseSettings.parse({"kind": "command", "command": ["no-such-program"]}, "pairwise")
    with pytest.raises(InputError, match="the judge cannot be started"):
        list(Command(absent).ask([question()], RUBRIC))
