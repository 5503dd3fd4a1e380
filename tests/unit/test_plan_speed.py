"""The share of the peak that a plan counts with: given, measured on the card, or assumed, and it says which."""

import json
from pathlib import Path
from typing import Any

import pytest

from juicer.planning import processors
from juicer.planning.plan import device_named, headline
from juicer.planning.planner import Planner
from juicer.planning.processors import this_cpu
from juicer.planning.speed import Speeds, Way
from juicer.recipe.activation import load
from juicer.runtime.devices import DEVICES

ROOT = Path(__file__).parents[2]

PACKED = Way(packed=True, recomputed=False, tokens=20_000)


def results(folder: Path, card: str, **values: Any) -> Path:
    settings = {"packed": True, "recomputed": False}
    measured = {"mfu": 0.31, "tokens_per_step": 16_000, "settings": settings} | values
    listed = [{"part": "irft", "name": "packed", "state": "measured", "values": measured}]
    (folder / "card.json").write_text(json.dumps({"card": card, "measurements": listed}))
    return folder


@pytest.mark.parametrize(
    ("way", "share"),
    [
        (PACKED, 0.4),
        (Way(True, False, 4000), 0.25),
        (Way(False, False, 4000), 0.22),
        (Way(False, True, 4000), 0.07),
    ],
)
def test_without_measurements_the_way_of_training_decides(tmp_path: Path, way: Way, share: float) -> None:
    speeds = Speeds("H100", results=tmp_path)
    assert speeds.of(way) == share
    assert str(speeds) == f"{share:.0%} of the peak (assumed, not measured)"


def test_what_was_measured_on_the_card_in_the_same_way_comes_first(tmp_path: Path) -> None:
    speeds = Speeds("H100", results=results(tmp_path, "NVIDIA H100 80GB HBM3"))
    assert speeds.of(PACKED) == 0.31
    assert str(speeds) == "31% of the peak (measured on H100)"
    assert speeds.of(Way(True, False, 4000)) == 0.25  # a smaller step was not measured
    assert str(speeds) == "25% to 31% of the peak (measured on H100, others assumed, not measured)"
    assert Speeds("RTX4090", results=tmp_path).of(PACKED) == 0.4


@pytest.mark.parametrize("values", [{"settings": None}, {"mfu": None}, {"mfu": 0.0}, {"mfu": 7.0}])
def test_results_that_do_not_say_how_are_left_alone(tmp_path: Path, values: dict[str, Any]) -> None:
    assert Speeds("H100", results=results(tmp_path, "NVIDIA H100 80GB HBM3", **values)).of(PACKED) == 0.4


def test_a_damaged_file_of_results_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "card.json").write_text("{")
    assert Speeds("H100", results=tmp_path).of(PACKED) == 0.4


def test_what_somebody_gives_holds_for_everything(tmp_path: Path) -> None:
    speeds = Speeds("H100", 0.33, results=results(tmp_path, "NVIDIA H100 80GB HBM3"))
    assert speeds.of(PACKED) == speeds.decoding == 0.33
    assert str(speeds) == "33% of the peak, as given"


def test_a_cpu_is_measured_once_in_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    this_cpu.cache_clear()
    timed = list[int]()
    monkeypatch.setattr(processors, "_fastest", lambda work, threads: timed.append(threads) or 0.5)
    monkeypatch.setattr(processors, "main_memory", lambda: (8e9, 4e9))
    try:
        cpu = this_cpu(2)
        assert this_cpu(2) is cpu and timed == [2, 2]
    finally:
        this_cpu.cache_clear()
    assert (cpu.memory, cpu.operations, cpu.bandwidth) == (8e9, 4 * 1024**3, 4 * 2**26)


def test_fp32_is_planned_at_the_speed_of_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert not [name for name, each in DEVICES.items() if each.has_bf16 and not each.operations32]
    lower, full = (planner_of("hh-sft", f"compute.precision={precision}") for precision in ("bf16", "fp32"))
    assert (lower.device.operations, full.device.operations) == (312e12, 19.5e12)
    trained = [next(each for each in planner.plan() if each.name == "sft") for planner in (lower, full)]
    hours = [each.hours(planner.device, 1, 0.4) for each, planner in zip(trained, (lower, full), strict=True)]
    assert hours[1] == pytest.approx(16 * hours[0])
    assert "which is 20 TFLOP/s and 2.04 TB/s in fp32" in headline(full, device_named("A100-80GB"))[0]


def planner_of(name: str, *overrides: str, gpu: str = "A100-80GB") -> Planner:
    recipe, graph = load(Path(f"recipes/{name}.yaml"), list(overrides), pinned=False)
    return Planner(recipe, graph, DEVICES[gpu], None, None, gpu)
