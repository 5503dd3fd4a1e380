"""Every command of the documentation that names a recipe, or is one of `juicer`, is accepted by the front door."""

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from juicer import cli
from juicer.recipe import activation

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = "|".join(each.name or each.callback.__name__ for each in cli.app.registered_commands)
COMMAND = re.compile(rf"(?<![\w/.-])(?:(?:python -m )?juicer (?:{NAMES})\b|make (?:plan\b|claim\b|repro RECIPE=))")
QUICKSTART = "recipes/quickstart.yaml"
PLACEHOLDERS = {
    "<40 hexadecimal digits>": "a" * 40,
    "--at-a-time N": "--at-a-time 2",
    "RECIPE=...": f"RECIPE={QUICKSTART}",
    "[RECIPE]": QUICKSTART,
    "RECIPE ": f"{QUICKSTART} ",
    "[KEY=VALUE ...]": "seed=1",
    "KEY=VALUE": "seed=1",
    "key=value": "seed=1",
    "[VERSION]": "models:/quickstart/7",
    "VERSION": "models:/quickstart/7",
    "TARGET": "models:/quickstart/7",
    " ...": "",
}
"""What stands for something that only the reader knows, in this order."""
OPTIONAL = re.compile(r"(?<!=)\[([^]]*)\]")
"""Brackets around an argument that may be left out; a list is a value after an equals sign."""
OF_A_RUN = "--measured"
"""Compares with what a finished run left; there is none here, so a command that has it is tried without it."""
OF_THE_READER = ("mine.yaml", "x.yaml")
"""Recipes that the reader is told to copy from the quickstart's."""
MIRROR = "mirrors/benchmarks"
CARRIED_OUT = ("run", "use", "check", "plan", "describe")
"""Commands that are carried out here, without the stages. Of the others, which need results, only the command line is
tried."""


def commands(page: str) -> Iterator[str]:
    """The commands of a page: to the end of the line in a block of code, to the closing backtick in a sentence."""
    for found in COMMAND.finditer(page):
        before, after = page[: found.start()], page[found.start() :]
        in_block = before.rpartition("\n")[2].startswith("    ")
        if in_block or before.rpartition("\n\n")[2].count("`") % 2:
            yield " ".join(after.split("\n" if in_block else "`", maxsplit=1)[0].split("&&")[0].split())


DOCUMENTED = list(dict.fromkeys(command for page in PAGES for command in commands(page.read_text(encoding="utf-8"))))


def arguments(command: str) -> list[str]:
    """What the command hands to `juicer`, by a shell or by make."""
    command += " "
    for placeholder, value in PLACEHOLDERS.items():
        command = command.replace(placeholder, value)
    command = OPTIONAL.sub(r"\1", command)
    first, *words = shlex.split(command.split(" | ")[0], comments=True)
    if first != "make":
        words = words[2:] if first == "python" else words
        # Named in a sentence, without its argument: the command itself.
        return [*words, "--help"] if words in (["use"], ["restore"]) else words
    variables = dict(word.split("=", maxsplit=1) for word in words[1:])
    chosen = variables.pop("RECIPE", QUICKSTART)
    given = shlex.split(variables.pop("PLAN", "") or variables.pop("CLAIM", ""))
    assert not variables
    return [{"repro": "run"}.get(words[0], words[0]), chosen, *given]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A project folder with the recipes, an active one, and what the reader is told to put there."""
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    # The inputs of the last one are fetched by the commands before it; test_house.py checks the recipe.
    for name in (*OF_THE_READER, "smollm2-hh-cpu.yaml"):
        shutil.copy(ROOT / QUICKSTART, tmp_path / "recipes" / name)
    (tmp_path / MIRROR).mkdir(parents=True)
    (tmp_path / "tasks").mkdir()
    (tmp_path / "dvc.yaml").touch()
    monkeypatch.chdir(tmp_path)
    activation.activate(Path(QUICKSTART), [], Path("params.yaml"))
    return tmp_path


@pytest.mark.parametrize("command", DOCUMENTED)
def test_a_documented_command_is_valid(command, folder, monkeypatch):
    given = [word for word in arguments(command) if word != OF_A_RUN]
    monkeypatch.setattr(cli, "reproduce", lambda held, at_a_time, until, quiet: None)
    monkeypatch.setattr(cli, "find_rounds", lambda held, at_a_time, until, quiet: None)
    monkeypatch.setattr(cli, "reproduce_in_snapshot", lambda held, at_a_time, until, quiet: None)
    monkeypatch.setattr(cli, "summary", lambda **_: None)
    if given[0] not in CARRIED_OUT or "--dry-run" in given:
        # --help ends the command line after all before it was accepted.
        given.append("--help")
        accepted = CliRunner().invoke(cli.app, [*given[:-1], "--no-such-option"])
        assert "no such option: --no-such-option" in accepted.stderr.replace("No", "no")
    done = CliRunner().invoke(cli.app, given)
    assert done.exit_code == 0, done.stderr


def test_commands_are_found_in_blocks_and_in_sentences_that_go_over_two_lines():
    page = "Do `make plan\nRECIPE=a.yaml` or\n\n    juicer use b.yaml seed=1 && make repro # x\n\nThe juicer plan.\n"
    assert list(commands(page)) == ["make plan RECIPE=a.yaml", "juicer use b.yaml seed=1"]


def test_make_and_a_shell_hand_on_what_the_page_says():
    assert arguments("make plan RECIPE=a.yaml PLAN='--gpu H100 seed=1'  # so") == [
        "plan", "a.yaml", "--gpu", "H100", "seed=1",
    ]  # fmt: skip
    assert arguments("make repro RECIPE=a.yaml") == ["run", "a.yaml"]
    assert arguments("juicer use") == ["use", "--help"]
    assert arguments("juicer run [RECIPE] [KEY=VALUE ...]") == ["run", QUICKSTART, "seed=1"]
