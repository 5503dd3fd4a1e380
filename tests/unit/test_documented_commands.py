"""Every command of the documentation that names a recipe or plans one is taken by the program that it is for."""

import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from juicer.planning import plan
from juicer.recipe import activation

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMAND = re.compile(r"python -m tasks\.(?:recipe|plan)\b|make (?:plan\b|repro RECIPE=)")
QUICKSTART = "recipes/quickstart.yaml"
PLACEHOLDERS = {
    "<40 hexadecimal digits>": "a" * 40,
    "RECIPE=...": f"RECIPE={QUICKSTART}",
    "juicer.recipe.activation RECIPE": f"juicer.recipe.activation {QUICKSTART}",
}
"""What stands for something that only the reader knows."""
OF_A_RUN = "--measured"
"""Compares with what a finished run left, and there is none here: a command that has it is tried without."""
OF_THE_READER = ("mine.yaml", "x.yaml")
"""Recipes that the reader is told to copy from the quickstart's."""
MIRROR = "mirrors/benchmarks"


def commands(page: str) -> Iterator[str]:
    """The commands of a page: to the end of the line in a block of code, to the closing backtick in a sentence."""
    for found in COMMAND.finditer(page):
        before, after = page[: found.start()].rpartition("\n")[2], page[found.start() :]
        in_block = before.startswith("    ")
        yield " ".join(after.split("\n" if in_block else "`", maxsplit=1)[0].split("&&")[0].split())


DOCUMENTED = list(dict.fromkeys(command for page in PAGES for command in commands(page.read_text(encoding="utf-8"))))


def arguments(command: str) -> list[str]:
    """The command as a shell and make hand it on: the module, then its arguments."""
    for placeholder, value in PLACEHOLDERS.items():
        command = command.replace(placeholder, value)
    first, *words = shlex.split(command, comments=True)
    if first == "python":
        # Without an argument it is no command but the program's name.
        return words[1:] if len(words) > 2 else [words[1], "--help"]
    variables = dict(word.split("=", maxsplit=1) for word in words[1:])
    chosen = variables.pop("RECIPE", QUICKSTART)
    if words[0] == "repro":
        assert not variables
        return ["juicer.recipe.activation", chosen]
    given = shlex.split(variables.pop("PLAN", ""))
    assert not variables
    return ["juicer.planning.plan", chosen, *given]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A project folder with the recipes, an active one, and what the reader is told to put there."""
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    for name in OF_THE_READER:
        shutil.copy(ROOT / QUICKSTART, tmp_path / "recipes" / name)
    (tmp_path / MIRROR).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    activation.activate(Path(QUICKSTART), [], Path("params.yaml"))
    return tmp_path


@pytest.mark.parametrize("command", DOCUMENTED)
def test_a_documented_command_is_valid(command, folder, monkeypatch, capsys):
    module, *given = (word for word in arguments(command) if word != OF_A_RUN)
    monkeypatch.setattr(sys, "argv", [module, *given])
    with pytest.raises(SystemExit) as left:
        {"juicer.recipe.activation": activation, "juicer.planning.plan": plan}[module].main()
    assert left.value.code == 0, capsys.readouterr().err


def test_commands_are_found_in_blocks_and_in_sentences_that_go_over_two_lines():
    page = (
        "Do `make plan\nRECIPE=a.yaml` or\n\n    python -m juicer.recipe.activation b.yaml seed=1 && make repro # x\n"
    )
    assert list(commands(page)) == ["make plan RECIPE=a.yaml", "python -m juicer.recipe.activation b.yaml seed=1"]


def test_make_and_a_shell_hand_on_what_the_page_says():
    assert arguments("make plan RECIPE=a.yaml PLAN='--gpu H100 seed=1'  # so") == [
        "juicer.planning.plan", "a.yaml", "--gpu", "H100", "seed=1",
    ]  # fmt: skip
    assert arguments("make repro RECIPE=a.yaml") == ["juicer.recipe.activation", "a.yaml"]
    assert arguments("python -m juicer.recipe.activation") == ["juicer.recipe.activation", "--help"]
