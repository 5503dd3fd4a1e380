"""DVC parses params.yaml once per text of it, and finds the same values as it does by itself."""

from pathlib import Path

import pytest
from dvc.dependency.param import read_param_file
from dvc.fs import LocalFileSystem
from dvc.utils.serialize import EncodingError, YAMLFileCorruptedError

from juicer.running.parameters import ParsedOnce

TEXT = "seed: 0\nnone:\nlist: [a, {b: 1}]\ngraph:\n  models:\n    r1: {path: models/r1, previous: ''}\n1: one\n"


def not_asked(*given: object, **more: object) -> None:
    raise AssertionError("DVC's own function was asked")


@pytest.fixture
def params(tmp_path: Path) -> Path:
    (tmp_path / "params.yaml").write_text(TEXT)
    return tmp_path / "params.yaml"


def test_plain_keys_are_found_without_dvc_and_with_its_values(params):
    keys = ["seed", "none", "list", "graph", "graph.models.r1.previous", "graph.models.r1"]
    found = ParsedOnce(not_asked)(LocalFileSystem(), str(params), keys, flatten=True)
    assert found == read_param_file(LocalFileSystem(), str(params), keys, flatten=True)
    assert list(found) == keys
    assert found["graph"]["models"]["r1"] is found["graph.models.r1"]  # as in DVC, which writes it accordingly


@pytest.mark.parametrize(
    "keys", [["seed", "absent"], ["list.0"], ["graph.models.*.path"], ["1"], ["graph.models.r1.path.x"], None]
)
def test_other_keys_are_left_to_dvc(params, keys):
    found = ParsedOnce(read_param_file)(LocalFileSystem(), str(params), keys, flatten=True)
    assert found == read_param_file(LocalFileSystem(), str(params), keys, flatten=True)


def test_an_edit_is_seen_and_a_changed_value_does_not_reach_the_next_reader(params):
    read = ParsedOnce(not_asked)
    read(LocalFileSystem(), str(params), ["list"], flatten=True)["list"].append("mine")
    assert read(LocalFileSystem(), str(params), ["list"], flatten=True) == {"list": ["a", {"b": 1}]}
    params.write_text(TEXT.replace("seed: 0", "seed: 1"))
    assert read(LocalFileSystem(), str(params), ["seed"], flatten=True) == {"seed": 1}


def test_the_same_text_is_parsed_once(params, monkeypatch):
    import dvc.utils.serialize as serialize

    texts, parse = [], serialize.parse_yaml
    monkeypatch.setattr(serialize, "parse_yaml", lambda text, path: texts.append(text) or parse(text, path))
    read = ParsedOnce(not_asked)
    for _ in range(3):
        read(LocalFileSystem(), str(params), ["seed"], flatten=True)
    assert texts == [TEXT]


@pytest.mark.parametrize(("content", "error"), [(b"a: [", YAMLFileCorruptedError), (b"a: \xff", EncodingError)])
def test_a_broken_file_has_the_error_of_dvc(params, content, error):
    params.write_bytes(content)
    with pytest.raises(error):
        ParsedOnce(read_param_file)(LocalFileSystem(), str(params), ["a"], flatten=True)
