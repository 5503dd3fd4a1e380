"""Every local file of demonstrations is a dependency of the stage fetch, which has a fixed number of places."""

import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from juicer.planning.roles import available_rows
from juicer.recipe.activation import dump, load
from juicer.recipe.checks import validate
from juicer.recipe.graph import ABSENT, SOURCES
from juicer.recipe.rows import check_rows
from juicer.registry.card import _sources
from juicer.runtime.errors import InputError
from juicer.settings.sources import FetchSettings
from tests.fetching import written
from tests.stub_models import write_stub

QUICKSTART = Path(__file__).parents[2] / "recipes" / "quickstart.yaml"
OTHERS = ["world=null", "pretrain=null", "scorer={kind: none}", "policy.model=model", "curate.keep=null"]


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_stub(tmp_path / "model")
    for number in range(3):
        written(tmp_path / "data" / f"part-{number}.jsonl", [row(10 * number + place) for place in range(10)])
    return tmp_path


def row(number: int) -> dict[str, Any]:
    return {"prompt": f"question {number}", "response": f"answer {number}"}


def params_of(source: Any, *overrides: str) -> dict[str, Any]:
    given = [*OTHERS, f"fetch.source={json.dumps(source)}", *overrides]
    params: dict[str, Any] = YAML(typ="safe").load(dump(*load(QUICKSTART, given)))
    return params


def sources_of(source: Any) -> list[str]:
    sources = params_of(source)["graph"]["sources"]
    assert list(sources) == list(SOURCES)
    return [path for path in sources.values() if path != ABSENT]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("data/part-1.jsonl", ["data/part-1.jsonl"]),
        ("data", ["data"]),
        (["data/part-0.jsonl", "data/part-2.jsonl"], ["data/part-0.jsonl", "data/part-2.jsonl"]),
        ("data/part-[12].jsonl", ["data/part-1.jsonl", "data/part-2.jsonl"]),
        ([{"path": "data/*.jsonl", "weight": 1}], [f"data/part-{number}.jsonl" for number in range(3)]),
    ],
)
def test_every_path_and_every_match_has_a_place(source: Any, expected: list[str]) -> None:
    assert sources_of(source) == expected


def test_a_written_recipe_with_several_sources_is_valid() -> None:
    params = params_of(["data/part-0.jsonl", {"path": "data/part-1.jsonl"}])
    assert validate(params, "params.yaml").fetch.source[1].path == "data/part-1.jsonl"


def test_a_file_that_a_glob_matches_later_makes_the_graph_out_of_date() -> None:
    params = params_of("data/part-*.jsonl")
    validate(params, "params.yaml")
    written(Path("data/part-3.jsonl"), [row(1)])
    with pytest.raises(InputError, match=r"that the pattern .* matches have changed \(data/part-3\.jsonl is new\)"):
        validate(params, "params.yaml")


def test_every_source_is_kept_and_the_recipe_stays_valid_when_they_go() -> None:
    params = params_of("data/part-*.jsonl")
    kept = params["graph"]["kept"]
    assert [kept[name]["copy"] for name in SOURCES[:3]] == [f"inputs/{name}.jsonl" for name in SOURCES[:3]]
    for path in Path("data").iterdir():
        path.unlink()
    validate(params, "params.yaml")


def test_more_matches_than_places_are_refused_with_what_to_do() -> None:
    for number in range(3, 9):
        written(Path(f"data/part-{number}.jsonl"), [row(number)])
    with pytest.raises(InputError, match=r"names 9 files, more than 8 .*name the folder"):
        params_of("data/*.jsonl")


@pytest.mark.parametrize("source", ["data/missing.jsonl", "missing/*.jsonl", ["data", "data/missing.jsonl"]])
def test_a_path_that_does_not_exist_is_refused_when_the_recipe_is_read(source: Any) -> None:
    with pytest.raises(InputError, match="missing"):
        params_of(source)


def test_tilde_is_the_home_folder_in_every_source(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(project))
    assert sources_of(["~/data/part-0.jsonl", {"path": "~/data/part-1.jsonl"}]) == [
        f"{project}/data/part-0.jsonl",
        f"{project}/data/part-1.jsonl",
    ]


def test_the_first_rows_are_converted_when_the_recipe_is_read() -> None:
    written(Path("bad.jsonl"), [{"messages": [{"role": "user", "content": "Hi"}]}] * 5)
    with pytest.raises(InputError, match=r"bad\.jsonl:1: .*assistant turn; this is so in 5 of the first 5 rows"):
        params_of("bad.jsonl")
    written(Path("other.jsonl"), [{"ask": "Hi", "reply": "Hello"}] * 5)
    with pytest.raises(InputError, match=r"other\.jsonl:1: .*ask"):
        params_of("other.jsonl")


def test_what_was_found_in_the_first_rows_is_said() -> None:
    bad = {"prompt": "Hi", "response": ""}
    written(Path("mixed.jsonl"), [*map(row, range(150)), bad])
    fetch = FetchSettings(source="mixed.jsonl")
    assert [str(found) for found in check_rows(fetch)] == [
        "mixed.jsonl is prompt-response: all the first 100 rows can be used"
    ]
    written(Path("mixed.jsonl"), [bad, *map(row, range(150))])
    said = "mixed.jsonl is prompt-response: 99 of the first 100 rows can be used (1 where the response is empty)"
    assert [str(found) for found in check_rows(fetch)] == [said]


@pytest.mark.parametrize(
    ("source", "rows"),
    [
        ("data", 30),
        (["data/part-0.jsonl", "data/part-1.jsonl"], 20),
        ([{"path": "data/part-0.jsonl", "weight": 2}, {"path": "data/part-1.jsonl", "weight": 1}], 15),
    ],
)
def test_a_plan_counts_the_rows_of_all_sources(source: Any, rows: int) -> None:
    given = [*OTHERS, f"fetch.source={json.dumps(source)}", "curate.validation_share=0.1", "curate.held_out_share=0.1"]
    recipe, _ = load(QUICKSTART, given, pinned=False)
    assert available_rows(recipe) == round(rows * 0.8)


def test_a_plan_counts_rows_also_where_the_first_are_no_demonstrations() -> None:
    rows = [{"prompt": f"q{number}", "completion": "a", "label": number >= 150} for number in range(300)]
    written(Path("kto.jsonl"), rows)
    given = [*OTHERS, "fetch.source=kto.jsonl", "curate.validation_share=0.1", "curate.held_out_share=0.1"]
    recipe, _ = load(QUICKSTART, given, pinned=False)
    assert available_rows(recipe) == 240


def test_a_model_card_names_all_sources() -> None:
    assert _sources("data") == "`data`"
    assert _sources(["a.jsonl", {"path": "b.jsonl", "weight": 1}]) == "`a.jsonl`, `b.jsonl`"
