"""The wrong changes that `python -m dev.mutants` makes, and the reasons for those that may survive."""

from collections import Counter
from pathlib import Path

import pytest

from dev.mutants.__main__ import ROOT, TESTS, reasons, row_of, summary_of
from dev.mutants.changes import Change, changes_of

SOURCE = '''"""Words."""

LIMIT = 3


def clip(values: list[int], low: int = 0) -> list[int]:
    """Words."""
    if not values:
        raise InputError("nothing to clip", do="give some")
    return [max(low, value) for value in values if value < LIMIT and value != 7]
'''


@pytest.fixture
def changes(tmp_path: Path) -> list[Change]:
    (tmp_path / "clip.py").write_text(SOURCE)
    return changes_of(tmp_path, "clip.py")


def test_operators_constants_conditions_and_statements_are_changed_one_at_a_time(changes: list[Change]) -> None:
    assert {(change.line, change.what) for change in changes} >= {
        (3, "3 -> 4"),
        (6, "0 -> -1"),
        (8, "not values -> values"),
        (9, "raise InputError('nothing to clip', do='give some') -> pass"),
        (10, "value < LIMIT -> value <= LIMIT"),
        (10, "value < LIMIT -> value >= LIMIT"),
        (10, "value < LIMIT and value != 7 -> value < LIMIT or value != 7"),
        (10, "value < LIMIT and value != 7 -> value != 7"),
        (10, "max -> min"),
        (10, "7 -> 8"),
    }
    assert not any("Words" in change.what or "?" in change.what for change in changes)


def test_a_change_behaves_as_it_says_and_leaves_the_file_alone(changes: list[Change], tmp_path: Path) -> None:
    results = Counter()
    for change in changes:
        module: dict[str, object] = {"InputError": ValueError}
        exec(change.code, module)
        try:
            results[str(module["clip"]([-1, 2, 3, 5, 7], 0))] += 1  # type: ignore[operator]
        except (TypeError, ValueError):
            results["error"] += 1
    assert results["[0, 2]"] < len(changes) / 2, "most changes show on these values"
    assert {"[0, 2, 3]", "[-1, 0]", "None", "[0, 2, 3, 5]"} <= set(results)
    assert (tmp_path / "clip.py").read_text() == SOURCE


def test_every_reason_is_of_a_module_that_is_changed() -> None:
    assert {module for module, *_ in reasons()} <= set(TESTS)


def test_the_tests_of_every_changed_module_exist() -> None:
    files = {name.partition(":")[0] for names in TESTS.values() for name in names}
    assert all((ROOT / f"tests/unit/test_{name}.py").is_file() for name in files)


def test_survivors_are_told_with_their_reasons_and_counted_without(changes: list[Change]) -> None:
    ends = ["survived", "survived", *["killed"] * (len(changes) - 3), "timed out"]
    row = row_of(changes, ends, {changes[1].key: "equivalent"})  # type: ignore[arg-type]
    assert [each["reason"] for each in row["survivors"]] == [None, "equivalent"]
    assert (row["total"], row["killed"]) == (len(changes), len(changes) - 2)
    summary = summary_of({"clip.py": row, "other.py": row})
    assert (summary["total"], summary["killed"], summary["unexplained"]) == (2 * len(changes), 2 * len(changes) - 4, 2)
