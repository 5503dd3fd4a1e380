"""The form of `align`, and what its runs are called, without a Prefect server."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prefect.utilities.schema_tools.validation import validate

from flows import form, ui
from flows.align import align
from juicer.recipe.activation import activate
from juicer.runtime.errors import InputError

ROOT = Path(__file__).parents[2]
PROPERTIES = align.parameters.properties


def refusals(**parameters: Any) -> list[str]:
    """What the server says to parameters that are sent to it."""
    return [error.message for error in validate(parameters, align.parameters.model_dump(exclude_unset=True))]


def test_the_form_offers_the_recipes_and_the_stages_of_the_active_one() -> None:
    assert {"active", "quickstart"} <= set(PROPERTIES["recipe"]["enum"])
    offered = PROPERTIES["from_stage"]["anyOf"][0]["enum"]
    assert offered[0] == ""
    assert {"sft", "evaluate", "evaluate@sft", "irft_train@r1"} <= set(offered)
    assert offered.index("evaluate") < offered.index("evaluate@sft")


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"overrides": ["irft.rounds=4", "seed=1", "claim.variants.noisy=[a=b]", "sft.lora="]},
        {"from_stage": "irft_train@r9", "until_stage": "evaluate"},
    ],
)
def test_what_is_right_is_sent(given: dict[str, Any]) -> None:
    assert refusals(**given) == []


@pytest.mark.parametrize(
    "given",
    [
        {"overrides": ["irft.rounds"]},
        {"overrides": ["iftr.rounds=4"]},
        {"overrides": ["irft.rounds =4"]},
        {"overrides": "irft.rounds=4"},
        {"recipe": "quickstrat"},
        {"from_stage": "sft; rm -r ."},
        {"at_a_time": 0},
    ],
)
def test_what_cannot_be_right_is_refused_before_it_is_sent(given: dict[str, Any]) -> None:
    assert len(refusals(**given)) == 1


def test_stages_of_a_graph_that_cannot_be_read_are_typed(tmp_path: Path) -> None:
    assert form.stages(tmp_path) == []
    (tmp_path / "params.yaml").write_text("graph: [")
    (tmp_path / "dvc.yaml").write_text("stages: {}")
    assert form.stages(tmp_path) == []
    assert form.stage_schema(tmp_path).keys() == {"type", "pattern"}
    assert form.stage_schema().keys() == {"anyOf"}, "this project's can be read"


def test_a_stage_that_dvc_yaml_does_not_have_is_refused_with_the_nearest_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dvc.yaml").write_text((ROOT / "dvc.yaml").read_text())
    form.check_stages("", "sft", "evaluate@sft", "irft_train@r9")
    with pytest.raises(InputError, match=re.escape("dvc.yaml: no stage 'evalute@sft' (did you mean 'evaluate'?)")):
        form.check_stages("evalute@sft")


def name_of(monkeypatch: pytest.MonkeyPatch, there: str, **parameters: Any) -> str:
    """What a run with a name and parameters is called."""
    run = SimpleNamespace(name=there, parameters={"recipe": "quickstart", "overrides": [], **parameters})
    monkeypatch.setattr(form, "runtime", SimpleNamespace(flow_run=run))
    return form.named("recipe", "overrides")()


@pytest.mark.parametrize("given", ["before the demo", "nightly", "demo-2", "quickstart irft.rounds=4", "my-run"])
def test_a_name_that_a_user_gave_is_kept(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    assert name_of(monkeypatch, given) == given


def test_a_name_that_prefect_made_up_gives_way_to_what_the_run_does(monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.utilities.names import generate_slug

    for _ in range(50):
        assert name_of(monkeypatch, generate_slug(2)) == "quickstart"
    changed = name_of(monkeypatch, generate_slug(2), overrides=["irft.rounds=4", "seed=1"])
    assert changed == "quickstart irft.rounds=4 seed=1"
    assert len(name_of(monkeypatch, generate_slug(2), overrides=["seed=1"] * 50)) == form.LONGEST_NAME


def test_the_page_notices_a_new_recipe_and_another_graph_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").mkdir()
    (tmp_path / "dvc.yaml").write_text((ROOT / "dvc.yaml").read_text())
    quickstart = ROOT / "recipes" / "quickstart.yaml"
    activate(quickstart, [], Path("params.yaml"))
    monkeypatch.setattr(
        ui, "choices", lambda: ([path.name for path in Path("recipes").iterdir()], form.stages(tmp_path))
    )
    offered = ui.Form()
    assert not offered.has_changed()
    (tmp_path / "recipes/mine.yaml").write_text("name: mine")
    assert offered.has_changed()
    assert not offered.has_changed()
    (tmp_path / "recipes/mine.yaml").write_text("name: mine  # the same name")
    assert not offered.has_changed()
    activate(quickstart, ["irft.rounds=5"], Path("params.yaml"))
    assert offered.has_changed()
