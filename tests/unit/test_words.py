"""Words of a command that stand for values: what they become, and that no value becomes anything but a value."""

import argparse
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from juicer.runtime.errors import InputError
from juicer.runtime.files import value_at
from juicer.stages.dvc_files import DvcLock
from juicer.stages.words import resolved, stage_named

PARAMS: dict[str, Any] = {"graph": {"base": "models/world", "models": {"sft-matched": {"round": 0}}}}


def words(*given: str, stage: str = "evaluate@sft-matched", params: dict[str, Any] = PARAMS) -> list[str]:
    return resolved(given, stage, lambda key: value_at(params, key))


def test_a_stage_knows_its_key_and_looks_up_values_under_it() -> None:
    assert words("--out", "models/@key/reward") == ["--out", "models/sft-matched/reward"]
    assert words("--round", "@graph.models.@key.round", "--dry-run") == ["--round=0", "--dry-run"]
    assert words("--policy", "@graph.base", stage="sft") == ["--policy=models/world"]


def test_words_written_by_hand_stay_as_they_are() -> None:
    given = ["--policy", "models/me@keyboard", "--out", "graph.json", "--data=@graph.base", "--name=@key", "a@b"]
    assert words(*given, stage="sft") == given


@pytest.mark.parametrize(
    ("address", "name"),
    [("sft", "sft"), ("irft_train@r1", "irft_train@r1"), ("below/dvc.yaml:tiny@policy", "tiny@policy")],
)
def test_a_stage_has_the_name_that_dvc_gives_it(address: str, name: str) -> None:
    assert stage_named(address) == name


def test_a_word_that_stands_for_nothing_is_refused_in_one_line() -> None:
    with pytest.raises(InputError, match=r"@graph\.irft\.@key\.part .* \(check the name of the stage: .*\)") as error:
        words("--part", "@graph.irft.@key.part", stage="irft_train@r9")
    assert "there is no graph.irft.r9.part" in str(error.value)
    with pytest.raises(InputError, match=r"'sft' has none \(name the stage with its key: --stage sft@KEY\)"):
        words("--out", "models/@key", stage="sft")


@pytest.mark.parametrize(
    "value",
    [
        "main; touch pwned #",
        "$(touch pwned)",
        "`id`",
        "--debug",
        "-rf /",
        "a b",
        "a\nb",
        "'",
        '"',
        "=",
        "@key",
        "@graph.base",
        "é",
    ],
)
def test_whatever_a_value_looks_like_it_is_the_value_of_its_option(value: str) -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--revision")
    parser.add_argument("--debug", action="store_true")
    given = parser.parse_args(words("--revision", "@graph.base", params={"graph": {"base": value}}))
    assert vars(given) == {"revision": value, "debug": False}


@pytest.mark.parametrize(
    "stage",
    [
        {"cmd": "python -m tasks.irft_train --stage irft_train@r1 --policy models/sft --out models/irft/r1"},
        {
            "cmd": "python -m tasks.irft_train --policy @graph.irft.@key.previous --out models/irft/@key",
            "params": {"params.yaml": {"seed": 0, "graph.irft.r1.previous": "models/sft"}},
        },
    ],
    ids=["a lock with values in its commands", "a lock with values in its parameters"],
)
def test_a_lock_tells_the_arguments_of_a_stage(stage: dict[str, Any], tmp_path: Path) -> None:
    with (tmp_path / "dvc.lock").open("w", encoding="utf-8") as file:
        YAML().dump({"schema": "2.0", "stages": {"irft_train@r1": stage}}, file)
    lock = DvcLock.read(tmp_path / "dvc.lock")
    assert lock.argument("irft_train@r1", "--policy") == "models/sft"
    assert lock.argument("irft_train@r1", "--out") == "models/irft/r1"
    assert lock.argument("irft_train@r1", "--samples") is None
