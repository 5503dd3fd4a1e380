"""What a first run is expected to take: the plan's hours on a known GPU, and nothing elsewhere."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from juicer.planning import expected
from juicer.planning.expected import SHORTEST, gpu_here, planned_seconds
from juicer.recipe.activation import dump, load
from juicer.running import durations

ROOT = Path(__file__).parents[2]
H100 = "NVIDIA H100 80GB HBM3"


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "params.yaml"
    path.write_text(dump(*load(ROOT / "recipes/quickstart.yaml", [])))
    return path


@pytest.mark.parametrize("gpu", [None, "NVIDIA GeForce GT 710", "NVIDIA H100 80GB HBM3 MIG 1g.10gb"])
def test_a_gpu_without_a_data_sheet_has_no_planned_times(gpu: str | None, params: Path) -> None:
    assert planned_seconds(gpu, params) == {}


def test_stages_that_the_plan_gives_seconds_have_no_planned_time(params: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert planned_seconds(H100, params) == {}
    monkeypatch.setattr(expected, "SHORTEST", 0.0)
    assert {"sft", "irft_train@r1", "evaluate@base"} <= planned_seconds(H100, params).keys()
    assert SHORTEST == 60


def test_the_driver_names_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(stdout=f"{H100}\n{H100}\n"))
    assert gpu_here() == H100

    def missing(*_: object, **__: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(subprocess, "run", missing)
    assert gpu_here() is None


@pytest.mark.parametrize(
    ("printed", "found"), [(json.dumps({"sft": 90.0}), {"sft": 90.0}), ("no JSON", {}), ("[]", {})]
)
def test_a_run_takes_from_the_plan_what_it_can_read(
    printed: str, found: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(command: list[str], **_: object) -> SimpleNamespace:
        assert command == [sys.executable, "-m", "juicer.planning.expected"]
        return SimpleNamespace(stdout=printed)

    monkeypatch.setattr(subprocess, "run", run)
    assert durations.planned() == found
