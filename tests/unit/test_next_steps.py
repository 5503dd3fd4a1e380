"""What a run says last: where its champion is, and commands that exist."""

from pathlib import Path

import pytest

from juicer import cli
from juicer.reporting.contract import Summary
from juicer.reporting.next_steps import next_steps

PARAMS = "graph: {models: {sft: {path: models/sft}, irft-r2: {path: models/irft/r2}}}\n"
ALL = ("report", "chat", "compare", "export", "promote")


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "params.yaml"
    path.write_text(PARAMS)
    return path


def summary(champion: str, control: str = "sft") -> Summary:
    values = {"recipe": "mine", "seed": 0, "control": control, "models": [], "champion": {"name": champion}}
    return Summary.model_validate(values)


def test_the_champions_folder_comes_first_and_each_command_says_what_it_is_for(params: Path) -> None:
    lines = next_steps(summary("irft-r2"), params, ALL)
    assert lines[:2] == [f"Champion: irft-r2, {params.parent / 'models/irft/r2'}", "Next:"]
    assert [line.partition("#")[0].strip() for line in lines[2:]] == [
        "juicer report --open",
        "juicer chat irft-r2",
        "juicer compare sft irft-r2",
        "juicer export irft-r2",
        "juicer promote --dry-run",
    ]
    assert len({line.index("#") for line in lines[2:]}) == 1


def test_a_command_that_does_not_exist_is_not_advised(params: Path) -> None:
    commands = {each.name or each.callback.__name__ for each in cli.app.registered_commands if each.callback}
    advised = [line.split()[1] for line in next_steps(summary("sft"), params, commands)[2:]]
    assert {"report", "promote"} <= set(advised) <= commands


def test_a_run_that_registered_nothing_does_not_advise_to_promote(params: Path) -> None:
    assert not any("promote" in line for line in next_steps(summary("sft"), params, ALL, registered=False))


def test_a_champion_that_is_the_control_is_compared_with_the_base_model(params: Path) -> None:
    assert "  juicer compare base sft" in next_steps(summary("sft"), params, ALL)[4]


def test_a_champion_without_a_folder_has_no_line(params: Path) -> None:
    assert next_steps(summary("rft-r9"), params, [])[0] == "Next:"
