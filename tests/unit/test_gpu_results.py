"""What bench/gpu.py keeps: every result once, failures too, and tables that nobody types."""

import json
from dataclasses import replace

import pytest

from bench import gpu_tables
from bench.gpu_store import CUT, FAILED, MEASURED, RESULTS, Measurement, Results, keep

ENVIRONMENT = {
    "card": "NVIDIA H100", "driver": "580.1", "cuda": "13.0", "python": "3.12.3",
    "versions": {"torch": "2.11.0", "trl": None},
    "commit": "c" * 40, "clean": True, "code": "one", "command": "python bench/gpu.py --out out", "tiny": False,
}  # fmt: skip


LATER = "2026-01-02 00:00:00"


def results(*measured, card="NVIDIA H100", date="2026-01-01 00:00:00", **environment):
    """Results of one environment: (part, name, state, values) each."""
    made = Results(card)
    key = made.enter({**ENVIRONMENT, "card": card, **environment})
    for part, name, state, values in measured:
        error = "" if state == MEASURED else "it broke"
        made.add(Measurement(part, name, state, 1.0, date, key, values, error))
    return made


def state_of(found, part="irft", name="recipe"):
    return found.measurements[(part, name)].state


def test_what_was_written_is_read_back(tmp_path):
    made = results(("irft", "recipe", MEASURED, {"ms_per_step": 93.1}), ("irft", "compiled", FAILED, {}))
    made.write(tmp_path / "gpu.json")
    assert Results.read(tmp_path / "gpu.json") == made
    assert [path.name for path in tmp_path.iterdir()] == ["gpu.json"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        '{"card": "x", "measurements": [], "environments": []}',
        '{"card": "x", "measurements": [{"part": "irft"}], "environments": {}}',
    ],
)
def test_a_file_that_holds_something_else_is_named(tmp_path, text):
    path = tmp_path / "gpu.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"gpu\.json holds no results"):
        Results.read(path)


@pytest.mark.parametrize("state", [FAILED, CUT])
def test_a_failure_takes_the_place_of_a_figure_only_if_the_code_is_another(state):
    same, other = results(("irft", "recipe", MEASURED, {})), results(("irft", "recipe", MEASURED, {}))
    same.merge(results(("irft", "recipe", state, {}), date=LATER))
    other.merge(results(("irft", "recipe", state, {}), date=LATER, code="two"))
    assert (state_of(same), state_of(other)) == (MEASURED, state)


def test_a_figure_takes_the_place_of_a_failure_and_of_an_older_figure():
    found = results(("irft", "recipe", FAILED, {}))
    for value in (1.0, 2.0):
        found.merge(results(("irft", "recipe", MEASURED, {"ms_per_step": value})))
        assert found.measurements[("irft", "recipe")].values == {"ms_per_step": value}


def test_older_results_take_the_place_of_nothing_whatever_comes_in_first():
    found = results(("irft", "recipe", MEASURED, {"ms_per_step": 50.0}), date=LATER)
    found.merge(results(("irft", "recipe", MEASURED, {"ms_per_step": 300.0}), code="old"))
    assert found.measurements[("irft", "recipe")].values == {"ms_per_step": 50.0}


def test_what_this_code_has_settled_is_told_by_part_and_state():
    found = results(("irft", "recipe", MEASURED, {}), ("irft", "compiled", CUT, {}), ("stages", "sft", MEASURED, {}))
    assert found.settled(ENVIRONMENT, (MEASURED,)) == {"irft": {"recipe"}, "stages": {"sft"}}
    assert found.settled(ENVIRONMENT, (FAILED, CUT)) == {"irft": {"compiled"}}


@pytest.mark.parametrize(
    ("changed", "known"), [({"code": "two"}, False), ({"driver": "581"}, False), ({"command": "another"}, True)]
)
def test_a_figure_is_of_its_code_and_of_what_that_ran_on_but_not_of_the_command(changed, known):
    found = results(("irft", "recipe", MEASURED, {}))
    assert bool(found.settled({**ENVIRONMENT, **changed}, (MEASURED,))) is known


def test_results_are_kept_by_card(tmp_path):
    for card in ("NVIDIA H100 80GB HBM3", "NVIDIA H200"):
        results(("irft", "recipe", MEASURED, {}), card=card).write(tmp_path / "gpu.json")
        keep([tmp_path / "gpu.json"], tmp_path / "kept")
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == [
        "NVIDIA-H100-80GB-HBM3.json",
        "NVIDIA-H200.json",
    ]


def test_results_of_two_runs_are_joined_and_environments_without_results_dropped(tmp_path):
    first = results(("irft", "recipe", FAILED, {}), commit="a" * 40)
    second = results(("irft", "recipe", MEASURED, {}), ("stages", "sft", MEASURED, {}), commit="b" * 40)
    for number, each in enumerate((first, second)):
        each.write(tmp_path / f"{number}.json")
    [path] = set(keep([tmp_path / "0.json", tmp_path / "1.json"], tmp_path / "kept"))
    joined = Results.read(path)
    assert state_of(joined) == state_of(joined, "stages", "sft") == MEASURED
    assert [each["commit"] for each in joined.environments.values()] == ["b" * 40]


def test_results_of_another_card_are_not_mixed_in():
    with pytest.raises(ValueError, match="NVIDIA H200 do not belong to those of NVIDIA H100"):
        results().merge(results(card="NVIDIA H200"))


def test_figures_of_tiny_models_are_not_kept(tmp_path):
    results(("irft", "recipe", MEASURED, {}), tiny=True).write(tmp_path / "gpu.json")
    with pytest.raises(ValueError, match="tiny models"):
        keep([tmp_path / "gpu.json"], tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_a_table_shows_figures_failures_and_where_they_are_from():
    made = results(
        ("irft", "recipe", MEASURED, {"ms_per_step": 93.123, "mfu": 0.2213, "planned_gib": 28.0}),
        ("irft", "compiled", FAILED, {}),
        ("stages", "sft", MEASURED, {"same_bytes_twice": False, "fp32_against_cpu": {"loss": 1e-6}}),
    )
    text = gpu_tables.render([made])
    assert "### NVIDIA H100" in text
    assert "| recipe | 93.12 | 22.1% | 28 |  | 2026-01-01 00:00:00, 1 |" in text
    assert "| compiled |  |  |  | failed: it broke | 2026-01-01 00:00:00, 1 |" in text
    assert "| sft | no | 1e-06 |" in text
    assert "Driver 580.1, CUDA 13.0, Python 3.12.3, torch 2.11.0; commit cccccccccccc, code one" in text


def test_all_rows_of_a_table_have_as_many_cells_also_where_everything_failed():
    lines = gpu_tables.render([results(("irft", "a", FAILED, {}), ("irft", "b", CUT, {}))]).splitlines()
    assert {line.count(" | ") for line in lines if line.startswith("|")} == {2}


def test_a_command_cannot_end_the_tables(tmp_path):
    page, text = tmp_path / "page.md", f"before\n{gpu_tables.BEGIN}\n{gpu_tables.END}\nafter\n"
    page.write_text(text)
    made = results(("irft", "a", FAILED, {}), command=f"python bench/gpu.py --out {gpu_tables.END}")
    made.write(tmp_path / "kept/card.json")
    for _ in range(2):
        gpu_tables.write(page, tmp_path / "kept")
    assert page.read_text().count("after") == page.read_text().count(gpu_tables.END) == 1


def test_an_error_cannot_break_the_table():
    made = results(("irft", "recipe", FAILED, {}))
    broken = replace(made.measurements[("irft", "recipe")], error="a | b\n<script>")
    made.measurements[("irft", "recipe")] = broken
    assert "failed: a \\| b &lt;script&gt;" in gpu_tables.render([made])


def test_only_what_stands_between_the_marks_is_written(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{gpu_tables.BEGIN}\nold\n{gpu_tables.END}\nafter\n")
    gpu_tables.write(page, tmp_path / "nothing")
    assert page.read_text() == f"before\n{gpu_tables.BEGIN}\n\n{gpu_tables.NOTHING}\n\n{gpu_tables.END}\nafter\n"


def test_a_page_without_marks_is_left_alone(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("a page")
    with pytest.raises(ValueError, match="no place for the tables"):
        gpu_tables.write(page, tmp_path)
    assert page.read_text() == "a page"


def test_the_page_shows_exactly_what_is_stored(tmp_path):
    page = tmp_path / "performance.md"
    page.write_text(gpu_tables.PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    gpu_tables.write(page, RESULTS)
    assert page.read_text(encoding="utf-8") == gpu_tables.PAGE.read_text(encoding="utf-8")


def test_stored_results_are_of_gpus():
    for path in RESULTS.glob("*.json"):
        assert not any(each["tiny"] for each in json.loads(path.read_text())["environments"].values())
