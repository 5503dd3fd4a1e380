"""What was planned for a stage's memory on a GPU stands beside what it took: in its costs, on their page, in a line."""

import json
from pathlib import Path

import pytest

from juicer.planning import expected
from juicer.planning.comparison import compare_memory
from juicer.planning.expected import planned_seconds
from juicer.planning.planner import StagePlan
from juicer.recipe.activation import dump, load
from juicer.reporting.costs import StageRow, render
from juicer.reporting.memory import memory_line
from juicer.runtime.devices import MIB
from juicer.stages import planned
from juicer.stages.costs import StageCost
from juicer.stages.planned import PLAN, PlannedStages, compared, is_planned, planned_memory
from juicer.training.memory import OVERHEAD

ROOT = Path(__file__).parents[2]
H100 = "NVIDIA H100 80GB HBM3"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(dump(*load(ROOT / "recipes/quickstart.yaml", [])))
    return tmp_path


def cost(stage: str, **values: float) -> None:
    folder = Path(".juicer/costs")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{stage}.json").write_text(json.dumps({"stage": stage, **values}))


def test_a_run_on_a_gpu_leaves_the_planned_memory_of_every_stage(project: Path) -> None:
    assert not is_planned()
    planned_seconds(H100, plan=PLAN)
    found = PlannedStages.read(PLAN)
    assert found.card == H100 and is_planned()
    assert {"sft", "irft_train@r1", "evaluate@base"} <= found.device_memory_mb.keys()
    assert planned_memory("sft", [H100]) == found.device_memory_mb["sft"] > 0


def test_the_plan_of_another_recipe_is_not_compared(project: Path) -> None:
    planned_seconds(H100, plan=PLAN)
    Path("params.yaml").write_text(dump(*load(ROOT / "recipes/quickstart.yaml", ["seed=7"])))
    assert not is_planned() and planned_memory("sft", [H100]) is None
    assert compared("sft", {"peak_device_memory_mb": 10.0}, [H100]) == {}


@pytest.mark.parametrize("text", ["", "{}", '{"card": "x", "params": "y", "device_memory_mb": {"sft": "much"}}'])
def test_a_damaged_plan_stops_no_stage(text: str, project: Path) -> None:
    PLAN.parent.mkdir()
    PLAN.write_text(text)
    assert planned_memory("sft", [H100]) is None and not is_planned()


def test_a_stage_notes_its_plan_beside_what_it_took(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planned, "planned_memory", lambda stage, _: 3000.0 if stage == "sft" else None)
    assert compared("sft", {"peak_device_memory_mb": 2000.0}, [H100]) == {
        "planned_device_memory_mb": 3000.0,
        "memory_ratio": 1.5,
    }
    assert compared("sft", {}, []) == {}  # on a CPU
    assert compared("report", {"peak_device_memory_mb": 2000.0}, [H100]) == {}


def test_the_plan_of_another_card_is_not_compared(project: Path) -> None:
    planned_seconds(H100, plan=PLAN)
    peaks = {"peak_device_memory_mb": 2000.0}
    assert compared("sft", peaks, [H100]) and compared("sft", peaks, ["H100 80GB HBM3", H100])
    for cards in (["NVIDIA L4"], [H100, "NVIDIA L4"], ["NVIDIA H100 PCIe"], []):
        assert compared("sft", peaks, cards) == {}


def test_a_cpu_gets_no_plan_of_a_gpu(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expected, "gpu_here", lambda: None)
    expected.main()
    assert not PLAN.exists()


def test_a_run_ends_with_the_stage_whose_plan_was_tightest(project: Path) -> None:
    cost("sft", peak_device_memory_mb=2048.0, planned_device_memory_mb=3072.0, memory_ratio=1.5)
    cost("irft_train@r1", peak_device_memory_mb=2048.0, planned_device_memory_mb=1843.2, memory_ratio=0.9)
    cost("report", peak_memory_mb=100.0)
    line = memory_line()
    assert line == (
        "memory of the GPU: planned 0.90 to 1.50 times what 2 stages took; irft_train@r1 took more, "
        "2.0 GiB of 1.8 planned (report/costs.html)"
    )


def test_without_a_gpu_there_is_no_line(project: Path) -> None:
    cost("sft", peak_memory_mb=100.0)
    Path(".juicer/costs/curate.json").write_text("{")
    assert memory_line() is None


def test_the_page_of_costs_has_plan_and_ratio_where_they_are_known() -> None:
    values = {"peak_device_memory_mb": 2048.0, "planned_device_memory_mb": 3072.0, "memory_ratio": 1.5}
    page = render([StageRow("sft", StageCost.parse({"stage": "sft", **values}, "cost.json"))])
    assert "Planned device memory, MB" in page and "1.50" in page
    assert "Planned" not in render([StageRow("sft", StageCost.parse({"stage": "sft"}, "cost.json"))])


def test_a_finished_run_is_compared_by_main_memory_on_a_cpu_and_by_tensors_on_a_gpu(project: Path) -> None:
    cost("sft", peak_memory_mb=600.0, peak_device_memory_mb=2048.0)
    stages = [StagePlan("sft", "tiny", memory=700.0 * MIB + OVERHEAD), StagePlan("irft_train@r1", "tiny", memory=1.0)]
    (on_cpu,), (on_gpu,) = (compare_memory(stages, alone) for alone in (True, False))
    assert (on_cpu.quantity, on_cpu.measured, on_gpu.measured) == ("memory MiB", 600.0, 2048.0)
    assert (on_cpu.planned - on_gpu.planned) * MIB == OVERHEAD
