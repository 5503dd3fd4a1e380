"""What was measured on each prompt is found again in the registry, by a client of MLflow that is made up."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from juicer.registry.per_prompt import FILE, PerPromptFigures, paired
from juicer.registry.versions import Registry, Version

VERSION = Version("mine", "3", {"model": "irft-r1", "evaluated_on": "abc"}, "made", "m-1")


def figures(*values: float) -> PerPromptFigures:
    return PerPromptFigures(id=[f"p{place}" for place in range(len(values))], figures={"reward_mean": list(values)})


class Client:
    """The runs of an experiment: metrics, and what was kept with them, by id."""

    def __init__(self, **runs: tuple[dict[str, float], PerPromptFigures | None]) -> None:
        self.runs, self.asked = runs, ""

    def get_run(self, name: str) -> Any:
        return SimpleNamespace(info=SimpleNamespace(experiment_id="1"))

    def search_runs(self, experiments: list[str], query: str, **_: Any) -> list[Any]:
        self.asked = query
        return [
            SimpleNamespace(info=SimpleNamespace(run_id=name), data=SimpleNamespace(metrics=metrics))
            for name, (metrics, _) in self.runs.items()
        ]

    def download_artifacts(self, run: str, name: str, folder: str) -> str:
        kept = self.runs[run][1]
        if kept is None:
            raise OSError("no such artifact")
        (Path(folder) / name).write_text(json.dumps(kept.as_json()), encoding="utf-8")
        return str(Path(folder) / name)


def test_a_version_s_prompts_are_those_of_the_evaluation_with_its_figures() -> None:
    newer = {"held_out/reward_mean": 9.0, "cost/seconds": 1.0}, figures(9.0, 9.0)
    client = Client(newer=newer, own=({"held_out/reward_mean": 2.0}, figures(1.0, 3.0)))
    found = Registry(client).per_prompt_of(VERSION, "irft-r1", {"reward_mean": 2.0, "kl_to_sft": 1.0})  # type: ignore[arg-type]
    assert found == figures(1.0, 3.0)
    assert "tags.model = 'irft-r1' AND tags.evaluated_on = 'abc'" in client.asked and FILE == "per_prompt.json"


@pytest.mark.parametrize("kept", [None, figures(9.0)])
def test_without_a_kept_file_of_the_same_figures_nothing_is_paired(kept: PerPromptFigures | None) -> None:
    value = 2.0 if kept is None else 9.0
    client = Client(only=({"held_out/reward_mean": value}, kept))
    assert Registry(client).per_prompt_of(VERSION, "irft-r1", {"reward_mean": 2.0}) is None  # type: ignore[arg-type]
    unmeasured = Version("mine", "4", {}, "made", "m-2")
    assert Registry(client).per_prompt_of(unmeasured, "irft-r1", {}) is None  # type: ignore[arg-type]


def test_prompts_without_a_figure_of_both_are_left_out_of_a_pairing() -> None:
    mine = PerPromptFigures(id=["a", "b", "c"], figures={"reward_mean": [1.0, None, 4.0]})
    theirs = PerPromptFigures(id=["a", "b", "c"], figures={"reward_mean": [0.5, 2.0, None]})
    stored = {"reward_mean": 2.5}, {"reward_mean": 1.25}
    assert paired(mine, theirs, "reward_mean", stored) == [0.5]
    assert paired(mine, theirs, "judge_mean", ({"judge_mean": 1.0}, {"judge_mean": 1.0})) is None
    assert paired(mine, figures(0.5, 2.0, 1.25), "reward_mean", stored) is None, "other prompts"
    assert paired(mine, None, "reward_mean", stored) is None
