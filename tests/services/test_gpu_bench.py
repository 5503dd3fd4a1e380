"""bench/gpu.py from start to end, tiny and on the CPU, in an environment like that of a borrowed machine with a GPU.

Packages are missing there that everything else here has, and transformers is older; what is missing comes from the kit.
"""

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench import gpu_tables
from bench.gpu_parts import PARTS
from bench.gpu_store import MEASURED, Results, keep

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
MINUTES = "30"


@dataclass(frozen=True)
class Measured:
    """What a run left."""

    command: list[str]
    printed: str
    file: Path

    @property
    def results(self) -> Results:
        return Results.read(self.file)


@pytest.fixture(scope="module")
def measured(bare_python, gpu_kit, tmp_path_factory):
    out, work = tmp_path_factory.mktemp("out"), tmp_path_factory.mktemp("work")
    command = [str(bare_python), "bench/gpu.py", "--kit", str(gpu_kit), "--out", str(out), "--work", str(work)]
    command += ["--tiny", "--minutes", MINUTES]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return Measured(command, done.stdout, out / "gpu.json")


def test_every_measurement_of_every_part_gives_figures(measured):
    found = measured.results.measurements.values()
    failures = [f"{each.part}, {each.name}: {each.error}\n{each.traceback}" for each in found if each.state != MEASURED]
    assert not failures, "\n".join(failures)
    assert {each.part for each in found} == set(PARTS)
    assert all(each.values for each in found)


def test_what_was_missing_came_from_the_kit_and_what_was_there_was_used(measured):
    [environment] = measured.results.environments.values()
    assert "pydantic" in measured.printed.split("into")[0]
    assert environment["versions"]["transformers"] == "5.17.0"
    assert environment["versions"]["pydantic"] and environment["versions"]["trl"]
    assert environment["tiny"] and len(environment["commit"]) == 40


def test_on_a_cpu_the_stages_are_what_they_are_compared_with(measured):
    stages = {each.name: each.values for each in measured.results.measurements.values() if each.part == "stages"}
    compared = {name: values for name, values in stages.items() if "again_against_cpu" in values}
    assert len(compared) == len(stages) - 1  # but for the preparation
    for name, values in compared.items():
        assert values["same_bytes_twice"] and values["same_bytes_twice_deterministic"], name
        assert all(
            gap in (0, 1) if share.startswith("same") else gap == 0
            for share, gap in values["again_against_cpu"].items()
        )


def test_sampling_is_measured_our_way_and_in_both_ways_of_transformers(measured):
    names = {name.split(",")[0] for part, name in measured.results.measurements if part == "sampling"}
    assert names == {"ours", "generate", "generate_batch"}


def test_the_same_command_measures_nothing_twice(measured):
    before = measured.file.read_text()
    done = subprocess.run(measured.command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "measured [" not in done.stdout and "failed [" not in done.stdout
    assert measured.file.read_text() == before


def test_all_of_it_can_be_shown_but_figures_of_tiny_models_are_not_kept(measured, tmp_path):
    text = gpu_tables.render([measured.results])
    assert all(f"| {name} |" in text for _, name in measured.results.measurements)
    with pytest.raises(ValueError, match="tiny models"):
        keep([measured.file], tmp_path)
