"""Files are replaced whole or not at all, without leftovers; a dotted key finds a value or names what is missing."""

from pathlib import Path

import pytest

from juicer.runtime.files import remove, replace_text, temporary_beside, value_at


def test_a_file_is_replaced_and_its_folder_is_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.txt"
    for text in ("first", "second"):
        replace_text(path, text)
        assert path.read_text() == text
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_replacement_keeps_the_old_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "b.txt"
    replace_text(path, "first")
    with pytest.raises(UnicodeEncodeError):
        replace_text(path, "\ud800")
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_a_temporary_folder_is_removed_when_the_block_fails(tmp_path: Path) -> None:
    def fail() -> None:
        with temporary_beside(tmp_path / "model") as folder:
            folder.mkdir()
            (folder / "weights").write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_link_is_removed_and_not_what_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    for name in ("link", "missing"):
        remove(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


VALUES = {"irft": {"training": {"beta": 0.1}, "rounds": 0}, "seed": None}


@pytest.mark.parametrize(("key", "expected"), [("irft.training.beta", 0.1), ("irft.rounds", 0), ("seed", None)])
def test_a_dotted_key_finds_the_value_that_it_names(key: str, expected: object) -> None:
    assert value_at(VALUES, key) == expected
    assert value_at(VALUES, key, "other") == expected


@pytest.mark.parametrize("key", ["sft", "irft.training.alpha", "irft.rounds.r1", "seed.x"])
def test_a_missing_value_is_the_default_or_an_error_with_the_whole_key(key: str) -> None:
    assert value_at(VALUES, key, {}) == {}
    with pytest.raises(KeyError, match=key):
        value_at(VALUES, key)
