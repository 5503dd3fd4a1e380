"""Bad recipes, overrides and params.yaml are refused in one clear line; nothing is run and nothing is written."""

from pathlib import Path

import pytest

from dev.hostile.recipes import CONTENT, cases
from juicer.recipe.activation import activate
from juicer.recipe.checks import validate
from juicer.runtime.errors import InputError
from juicer.runtime.files import read_yaml


@pytest.mark.parametrize("case", list(cases()), ids=lambda case: case.name)
def test_a_bad_recipe_is_refused_in_one_line(case, tmp_path):
    folder = tmp_path / "recipes"
    folder.mkdir()
    path = case.make(folder)
    params = tmp_path / "params.yaml"
    with pytest.raises(InputError) as error:
        if case.kind == "recipe":
            activate(path, case.words, params)
        else:
            validate(read_yaml(path), str(path))
    line = str(error.value)
    assert case.says in line
    assert len(line.splitlines()) == 1 and len(line) < 1500 and line.isprintable()
    assert CONTENT not in line and "hunter2" not in line
    assert not params.exists() and not Path("pwned").exists()
