"""Bad files of demonstrations are refused in one clear line with the place, in bounded memory."""

import argparse

import pytest

from dev.hostile.data import SLOW, cases
from juicer.runtime.errors import InputError
from juicer.settings.sources import FetchSettings
from juicer.stages.stage import Stage
from tasks import fetch


class Fetching(Stage):
    """The stage fetch, without a project."""

    def __init__(self, source, out):
        self.arguments = argparse.Namespace(out=out)
        self._settings = FetchSettings(source=str(source))
        self.processes, self.is_main = argparse.Namespace(is_local_main=True), True

    def read(self, key, settings):
        return self._settings


@pytest.mark.parametrize("case", [case for case in cases() if case.name not in SLOW], ids=lambda case: case.name)
def test_bad_data_is_refused_in_one_line_with_its_place(case, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    old = tmp_path / "raw" / "old"
    old.mkdir(parents=True)
    path = case.make(source)
    with pytest.raises(InputError) as error:
        fetch.run(Fetching(path, tmp_path / "raw"))
    line = str(error.value)
    assert case.says in line
    assert len(line.splitlines()) == 1 and len(line) < 1500 and line.isprintable()
    assert old.is_dir() and sorted(each.name for each in tmp_path.iterdir()) == ["raw", "source"]
