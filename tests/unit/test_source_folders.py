"""Which files a path, a folder or a pattern is, and which of them are held out from training."""

import json
from pathlib import Path

import pytest

from juicer.runtime.errors import InputError
from juicer.sources.files import SUFFIXES, files_of, is_path, listing_of
from juicer.sources.held_out import held_out_word, is_held_out


def touch(folder: Path, *names: str) -> str:
    """Make empty files; returns the folder as a source."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return str(folder)


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("test.jsonl", "test"),
        ("valid.jsonl", "valid"),
        ("Validation.PARQUET", "validation"),
        ("val.csv.gz", "val"),
        ("dev.jsonl.zst", "dev"),
        ("development.jsonl", "development"),
        ("my-eval.json", "eval"),
        ("evaluation_2.json", "evaluation"),
        ("heldout.jsonl", "heldout"),
        ("held_out.jsonl", "heldout"),
        ("hold-out.jsonl", "holdout"),
        ("hh-test-2.jsonl.gz", "test"),
        ("test2.jsonl", "test"),
        ("data.test.jsonl", "test"),
        ("test_sft-00000-of-00001.parquet", "test"),
        ("validation/data-00000-of-00001.arrow", "validation"),
        ("sub/test/0000.parquet", "test"),
        ("test/sub/0000.parquet", "test"),
        ("test/train/0000.parquet", None),
        ("train-dev.jsonl", "dev"),
        ("train/test.jsonl", "test"),
        ("train.jsonl", None),
        ("test/train.jsonl", None),
        ("dev/train-00000-of-00002.parquet", None),
        ("train_sft-00000-of-00001.parquet", None),
        ("latest.jsonl", None),
        ("testimonials.jsonl", None),
        ("devices.jsonl", None),
        ("evaluate.jsonl", None),
        ("invalid.jsonl", None),
        ("unit-test-questions.jsonl", None),
        ("0000.parquet", None),
    ],
)
def test_a_whole_word_at_an_end_of_a_name_holds_a_file_out(name: str, word: str | None) -> None:
    assert held_out_word(name) == word


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("test", True), (" Validation ", True), ("test_sft", True), ("held-out", True), ("development", True),
        ("train", False), ("train_sft", False), ("Training", False),
        ("contest", None), ("a", None), ("", None), (None, None), (1, None),
    ],
)  # fmt: skip
def test_the_value_of_a_split_says_held_out_trained_or_nothing(split: object, expected: bool | None) -> None:
    assert is_held_out(split) is expected


def test_of_a_folder_held_out_files_carry_their_word_and_others_are_counted(tmp_path: Path) -> None:
    source = touch(
        tmp_path / "test", "train.jsonl", "valid.JSONL", "sub/hh-test.jsonl.gz", "test/0000.parquet",
        "train/0000.parquet", "dataset_infos.json", "README.md", "notes.txt",
        "sub/more.md", ".hidden.jsonl", ".cache/a.jsonl",
    )  # fmt: skip
    found = listing_of(source)
    assert [(file.name, file.word, file.shown) for file in found.files] == [
        (name, word, f"{source}/{name}")
        for name, word in [
            ("sub/hh-test.jsonl.gz", "test"),
            ("test/0000.parquet", "test"),
            ("train.jsonl", None),
            ("train/0000.parquet", None),
            ("valid.JSONL", "valid"),
        ]
    ]
    assert found.ignored_line() == "ignored: 4 files (.md, .txt, dataset_infos.json)"


def test_a_single_file_is_trained_on_whatever_its_name(tmp_path: Path) -> None:
    source = touch(tmp_path, "test.jsonl") + "/test.jsonl"
    [file] = files_of(source)
    assert (file.held_out, file.name, file.shown, file.path) == (False, "test.jsonl", source, Path(source))


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("data/part-*.jsonl", ["part-1.jsonl", "part-2.jsonl"]),
        ("data/**/*.jsonl", ["more/a.jsonl", "more/dev.jsonl", "part-1.jsonl", "part-2.jsonl"]),
        ("data/**", ["more/a.jsonl", "more/dev.jsonl", "part-1.jsonl", "part-2.jsonl"]),
        ("data/mor?", ["more/a.jsonl", "more/dev.jsonl"]),
        ("./data/part-[2-9].*", ["part-2.jsonl"]),
        ("*/part-1.jsonl", ["data/part-1.jsonl"]),
    ],
)
def test_a_pattern_gives_the_files_that_it_matches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str, names: list[str]
) -> None:
    touch(tmp_path / "data", "part-1.jsonl", "part-2.jsonl", "more/a.jsonl", "more/dev.jsonl", ".part-3.jsonl")
    monkeypatch.chdir(tmp_path)
    found = files_of(pattern)
    assert [file.name for file in found] == names
    assert [file.name for file in found if file.held_out] == [name for name in names if "dev" in name]
    assert all(Path(file.shown).is_file() and not Path(file.shown).is_absolute() for file in found)


def saved(folder: Path, *files: str) -> None:
    """What save_to_disk writes."""
    touch(folder, *files, "dataset_info.json", "cache-12ab.arrow")
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in files]}))


def test_a_saved_dataset_has_the_files_that_it_names(tmp_path: Path) -> None:
    saved(tmp_path / "one", "data-00000-of-00002.arrow", "data-00001-of-00002.arrow")
    found = listing_of(str(tmp_path / "one"))
    assert [file.name for file in found.files] == ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]
    assert found.ignored == {"dataset_info.json": 1, "state.json": 1, ".arrow": 1}


def test_of_saved_splits_those_for_evaluation_are_held_out(tmp_path: Path) -> None:
    saved(tmp_path / "train", "data-00000-of-00001.arrow")
    saved(tmp_path / "validation", "data-00000-of-00001.arrow")
    saved(tmp_path / "old", "data-00000-of-00001.arrow")
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "validation"]}')
    assert {file.name: file.word for file in files_of(str(tmp_path))} == {
        "train/data-00000-of-00001.arrow": None,
        "validation/data-00000-of-00001.arrow": "validation",
    }


DATA_FILES = {
    "a list of splits": "[{split: train, path: a/test-*.csv}, {split: test, path: [b/one.csv, b/two.csv]}]",
    "a mapping": "{train: a/test-*.csv, test: b/*.csv}",
}


@pytest.mark.parametrize("data_files", DATA_FILES.values(), ids=DATA_FILES)
def test_a_readme_says_which_files_are_rows_of_which_split(tmp_path: Path, data_files: str) -> None:
    source = touch(tmp_path, "a/test-1.csv", "b/one.csv", "b/two.csv", "c/old.csv")
    head = f"configs:\n- config_name: x\n  data_files: old\n- config_name: default\n  data_files: {data_files}\n"
    (tmp_path / "README.md").write_text(f"---\nlicense: mit\n{head}---\n# Name\n")
    found = listing_of(source)
    expected = {"a/test-1.csv": None, "b/one.csv": "test", "b/two.csv": "test"}
    assert {file.name: file.word for file in found.files} == expected
    assert found.ignored == {".md": 1}


def test_a_readme_without_files_changes_nothing(tmp_path: Path) -> None:
    source = touch(tmp_path, "train.csv", "test.csv")
    for text in ("# Title\n\n---\ndata_files: x\n---\n", "---\nlicense: mit\n---\n", "---\n: [\n---\n"):
        (tmp_path / "README.md").write_text(text)
        assert {file.name: file.word for file in files_of(source)} == {"test.csv": "test", "train.csv": None}


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("configs: [{config_name: a, data_files: a.csv}, {config_name: b, data_files: b.csv}]", "configurations a, b"),
        ("configs: [{config_name: a, data_files: c.csv}]", r"data_files names 'c\.csv', and no file has such a name"),
        ("configs: [{config_name: a, data_files: ../a.csv}]", r"'\.\./a\.csv', which is outside of the folder"),
        ("configs: [{config_name: a, data_files: README.md}]", r"unsupported type of file: README\.md"),
        ("data_files: [", "invalid YAML"),
    ],
)
def test_a_readme_that_does_not_fit_the_folder_is_refused(tmp_path: Path, head: str, message: str) -> None:
    source = touch(tmp_path, "a.csv", "b.csv")
    (tmp_path / "README.md").write_text(f"---\n{head}\n---\n")
    with pytest.raises(InputError, match=message) as error:
        files_of(source)
    assert error.value.where.startswith(f"{source}/README.md")


@pytest.mark.parametrize("text", ["{", "[]", '{"_data_files": 1}', '{"_data_files": [{"filename": "gone.arrow"}]}'])
def test_a_saved_dataset_with_broken_metadata_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(InputError, match=str(tmp_path)):
        files_of(str(tmp_path))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("data/trian.jsonl", r"no such file or folder in data \(did you mean 'train\.jsonl'\?\)"),
        ("date/train.jsonl", r"no such file or folder; there is no 'date' \(did you mean 'data'\?\)"),
        ("data/train.jsonl/a", "no such file or folder"),
        ("data/*.csv", r"data/\*\.csv: the pattern matches no file"),
        ("data/*.xz", r"the pattern matches no supported file; ignored: 1 file \(\.xz\)"),
        ("data/notes.xz", r"unsupported type of file \(supported: \.jsonl, \.ndjson, \.json, \.csv, \.tsv, \.parquet"),
        ("empty", "the folder contains no supported file"),
        ("out", r"no file is left to train on: the names of all 2 hold them out \(dev, test\)"),
        ("out/*", "add a file to train on, or name one file itself"),
    ],
)
def test_a_source_without_rows_to_train_on_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, message: str
) -> None:
    touch(tmp_path, "data/train.jsonl", "data/notes.xz", "out/test.jsonl", "out/dev.csv")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message) as error:
        files_of(source)
    assert error.value.where == source


def test_a_path_is_not_taken_for_an_id_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    paths = ("./a", "../a/b", "/a", "~/a", "a/", "a/b/c", "a/*", "b.gz", "A.JSONL", "data")
    assert all(is_path(source) for source in (*paths, *(f"a{suffix}" for suffix in SUFFIXES)))
    assert not any(is_path(source) for source in ("Anthropic/hh-rlhf", "HuggingFaceH4/ultrachat_200k", "imdb"))
