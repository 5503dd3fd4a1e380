"""What a run of `align` leaves in params.yaml when it is cancelled or killed; Prefect and DVC are stood in for."""

import logging
import signal
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from prefect.exceptions import TerminationSignal

from flows import align, workspace
from juicer.recipe.activation import activate
from juicer.recipe.origin import origin_of
from juicer.runtime.files import read_yaml

QUICKSTART = Path(__file__).parents[2] / "recipes" / "quickstart.yaml"
PARAMS = Path("params.yaml")
FOUR = ["irft.rounds=4"]
Work = Callable[[], str | None]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Runs the flow, whose stages do `work`, in a folder with the quickstart active."""
    monkeypatch.chdir(tmp_path)
    Path("dvc.yaml").write_text((QUICKSTART.parents[1] / "dvc.yaml").read_text())
    activate(QUICKSTART, [], PARAMS)

    def start(work: Work, **given: Any) -> Any:
        class Board:
            def __init__(self, _: Any) -> None: ...

            def close(self) -> None: ...

            def line(self) -> str:
                return "done"

        for name, stand_in in {
            "plan": lambda **_: [], "execute": lambda *_: work(), "Board": Board, "hold": lambda **_: nullcontext(),
            "get_run_logger": lambda: logging.getLogger("align"), "order_of_lock": lambda _: nullcontext(),
            "prepare": print, "discard_damage": print, "publish_report": lambda: None, "publish_mlflow_links": print,
        }.items():  # fmt: skip
            monkeypatch.setattr(align, name, stand_in)
        return align.align.fn(**given)

    return start


def rounds() -> int:
    return int(read_yaml(PARAMS)["irft"]["rounds"])


def cancelled() -> None:
    raise TerminationSignal(signal=signal.SIGTERM)


def test_a_cancelled_run_leaves_params_yaml_as_it_was(start: Callable[..., Any]) -> None:
    before, origin = PARAMS.read_text(), origin_of(PARAMS)
    inside = list[int]()

    def work() -> None:
        inside.append(rounds())
        cancelled()

    assert start(work, overrides=FOUR).is_cancelled()
    assert inside == [4]
    assert PARAMS.read_text() == before
    assert origin_of(PARAMS) == origin


def test_a_killed_run_is_taken_back_by_the_next_one(start: Callable[..., Any]) -> None:
    before = PARAMS.read_text()

    def killed() -> None:
        killed.file = workspace.BEFORE.read_text()  # type: ignore[attr-defined]
        killed.params = PARAMS.read_text()  # type: ignore[attr-defined]

    assert start(killed, overrides=FOUR).is_completed()
    assert not workspace.BEFORE.exists(), "a run that has ended leaves nothing behind"
    assert rounds() == 4, "and its recipe stays active"
    # As the kill would have left the folder:
    workspace.BEFORE.write_text(killed.file)  # type: ignore[attr-defined]
    seen = list[str]()
    assert start(lambda: seen.append(PARAMS.read_text())).is_completed()
    assert seen == [before]


def test_what_a_user_has_changed_since_stays(start: Callable[..., Any]) -> None:
    def edited() -> None:
        PARAMS.write_text(PARAMS.read_text().replace("\nseed: 0\n", "\nseed: 7\n"))
        cancelled()

    assert start(edited, overrides=FOUR).is_cancelled()
    assert (rounds(), read_yaml(PARAMS)["seed"]) == (4, 7)


def test_a_failed_run_leaves_its_recipe_active_for_a_look_at_it(start: Callable[..., Any]) -> None:
    assert start(lambda: "sft failed", overrides=FOUR).is_failed()
    assert rounds() == 4


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"overrides": ["irft.round=4"]}, "unknown parameter 'irft.round' (did you mean 'rounds'?)"),
        ({"overrides": ["irft.rounds=-1"]}, "irft.rounds"),
        ({"overrides": ["irft.rounds"]}, "write key=value"),
        ({"recipe": "quickstrat"}, "quickstart"),
        ({"until_stage": "stf"}, "no stage 'stf' (did you mean 'sft'?)"),
    ],
)
def test_a_mistake_in_the_form_ends_the_run_before_it_waits_or_changes_anything(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], said: str
) -> None:
    before = PARAMS.read_text()

    def unreachable(**_: Any) -> None:
        raise AssertionError("it waits for the folder")

    start(lambda: None)
    monkeypatch.setattr(align, "hold", unreachable)
    state = align.align.fn(**given)
    assert state.is_failed()
    assert said in (state.message or "")
    assert "\n" not in (state.message or "")
    assert PARAMS.read_text() == before
