"""The flow `align` finds the rounds of a method on auto before it runs the rest; Prefect and DVC are stood in for."""

import json
import logging
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from flows import align
from juicer.evaluation.rounds import RoundComparisons
from juicer.recipe.activation import activate
from tests.unit.test_rounds import QUICKSTART, RFT, comparison


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool, int]]:
    """What is planned, in order: until which stage, whether by force, and with how many rounds."""
    monkeypatch.chdir(tmp_path)
    activate(QUICKSTART, RFT, Path("params.yaml"))
    plans: list[tuple[str, bool, int]] = []

    def graph() -> dict[str, Any]:
        return dict(YAML(typ="safe").load(Path("params.yaml").read_text())["graph"])

    def plan(until_stage: str = "", from_stage: str = "", force: bool = False) -> list[Any]:
        plans.append((until_stage, force, graph()["rounds"]["rft"]["ran"]))
        return []

    def execute(*_: Any) -> None:
        rounds = [comparison(round=t, improved=t == 1) for t in range(1, graph()["rounds"]["rft"]["ran"] + 1)]
        place = Path(graph()["decisions"])
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps(RoundComparisons(rounds=rounds).as_json()))

    class Board:
        def __init__(self, _: Any) -> None: ...

        def close(self) -> None: ...

        def line(self) -> str:
            return "done"

    for name, stand_in in {
        "plan": plan, "execute": execute, "Board": Board, "get_run_logger": lambda: logging.getLogger("align"),
        "hold": lambda **_: nullcontext(), "order_of_lock": lambda _: nullcontext(), "prepare": print,
        "activated": lambda *_: nullcontext("quickstart"), "check_stages": print,
        "discard_damage": print, "publish_report": lambda: None,
        "publish_mlflow_links": print, "check_machines": lambda _: "abcdef",
    }.items():  # fmt: skip
        monkeypatch.setattr(align, name, stand_in)
    return plans


def test_the_rounds_are_found_first_and_then_the_whole_graph_runs(planned):
    state = align.align.fn(force=True)
    assert state.is_completed(), state.message
    assert planned == [
        ("compare_round", False, 1),
        ("compare_round", False, 2),
        ("compare_round", False, 2),
        ("", True, 2),
    ]


@pytest.mark.parametrize("part", [{"until_stage": "sft"}, {"from_stage": "report"}])
def test_a_part_of_the_graph_finds_no_rounds(planned, part):
    assert align.align.fn(**part).is_completed()
    assert [(until, ran) for until, _, ran in planned] == [(part.get("until_stage", ""), 1)]


def test_on_machines_a_new_round_has_to_be_committed_first(planned):
    state = align.align.fn(on_machines=True)
    assert state.is_failed() and "commit params.yaml" in state.message
    assert planned == [("compare_round", False, 1)]
