"""Bad files of demonstrations are refused in one clear line with the place, in bounded memory."""

import pytest

from dev.hostile.data import SLOW, cases
from juicer.runtime.errors import InputError
from tests.fetching import fetched


@pytest.mark.parametrize("case", [case for case in cases() if case.name not in SLOW], ids=lambda case: case.name)
def test_bad_data_is_refused_in_one_line_with_its_place(case, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    old = tmp_path / "raw" / "old"
    old.mkdir(parents=True)
    path = case.make(source)
    with pytest.raises(InputError) as error:
        fetched(tmp_path, source=str(path))
    line = str(error.value)
    assert case.says in line
    assert len(line.splitlines()) == 1 and len(line) < 1500 and line.isprintable()
    assert old.is_dir() and sorted(each.name for each in tmp_path.iterdir()) == ["raw", "source"]
