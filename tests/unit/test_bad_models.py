"""Bad model folders are refused in one clear line before anything is built, and nothing in them is run."""

from pathlib import Path

import pytest

from dev.hostile.models import cases, good, load
from juicer.runtime.errors import InputError


@pytest.mark.parametrize("kind", ["policy", "scorer", "reward"])
def test_the_folder_that_the_bad_ones_are_made_from_is_good(kind):
    load(kind, good(kind))


@pytest.mark.parametrize("case", list(cases()), ids=lambda case: case.name)
def test_a_bad_model_is_refused_in_one_line(case, tmp_path, monkeypatch):
    folder = case.make(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as error:
        load(case.kind, folder)
    line = str(error.value)
    assert case.says in line
    assert len(line.splitlines()) == 1 and len(line) < 1500 and line.isprintable()
    assert not Path("pwned").exists()
