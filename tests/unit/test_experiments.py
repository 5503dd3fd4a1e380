"""Names of experiments, their table, and params.yaml taken back, without DVC."""

from pathlib import Path

import pytest

from juicer.experiments import run
from juicer.experiments.run import name_of
from juicer.experiments.table import Line, shown_table
from juicer.experiments.undo import taken_back
from juicer.recipe.origin import written_from
from juicer.reporting.contract import Summary
from juicer.runtime.errors import InputError
from juicer.runtime.files import remove


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["irft.rounds=2"], "irft.rounds=2"),
        (["sft.epochs=3", "seed=1"], "sft.epochs=3,seed=1"),
        (["recipes/hh-irft.yaml", "--tiny"], "hh-irft,tiny"),
        (["fetch.source=../a b/c..d.jsonl"], "fetch.source=.-a-b-c.d.jsonl"),
    ],
)
def test_an_experiment_is_named_after_its_changes(words, name):
    assert name_of(words, None) == name


def test_a_long_or_odd_name_is_cut_and_stays_apart_from_others():
    first, second = (name_of([f"fetch.source={'x' * 100}{end}"], None) for end in "ab")
    assert first != second and len(first) <= 60 and first.startswith("fetch.source=xxx")
    assert name_of(["a=ü.lock"], None) != name_of(["a=ö.lock"], None)


@pytest.mark.parametrize("name", ["", "a b", "../x", "-S", ".hidden", "a..b", "a.lock", "a/b", "x" * 200])
def test_a_name_that_is_no_reference_and_no_folder_is_refused(name):
    with pytest.raises(InputError, match="cannot be the name of an experiment"):
        name_of(["seed=1"], name)
    assert name_of(["seed=1"], "longer_2") == "longer_2"


def test_the_table_shows_each_champion_and_what_has_no_figures():
    row = {"name": "irft-r1", "method": "irft", "round": 1, "path": "m", "reward_mean": -1.5, "reward_sem": 0.25}
    values = {"recipe": "r", "seed": 0, "control": "sft", "models": [row], "champion": {"name": "irft-r1"}}
    summary = Summary.parse(values, "summary")
    lines = shown_table([Line("workspace", "", summary), Line("longer", "sft.epochs=3", None)]).splitlines()
    assert [line.split() for line in lines] == [
        ["experiment", "changed", "champion", "score"],
        ["workspace", "-", "irft-r1", "-1.500", "±0.250"],
        ["longer", "sft.epochs=3", "-", "-"],
    ]


def test_an_edit_of_params_is_taken_back_to_what_juicer_wrote(tmp_path):
    params = tmp_path / "params.yaml"
    params.write_text("seed: 0\n")
    written_from(params, (), False, params, None)
    params.write_text("seed: 1\n")
    assert taken_back(params).endswith("is as juicer last wrote it again")
    assert params.read_text() == "seed: 0\n"
    assert taken_back(params).endswith("nothing was changed")


def test_without_an_earlier_params_there_is_nothing_to_take_back(tmp_path: Path):
    (tmp_path / "params.yaml").write_text("seed: 1\n")
    with pytest.raises(InputError, match="nothing is known of an earlier one"):
        taken_back(tmp_path / "params.yaml")
    assert (tmp_path / "params.yaml").read_text() == "seed: 1\n"


def test_of_a_saved_experiment_the_report_stays_where_the_run_has_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = list[list[str]]()
    monkeypatch.setattr(run, "dvc", lambda words, folder: told.append(words))
    monkeypatch.setattr(run, "discard", remove)
    folder = run.FOLDER / "longer"
    (folder / "report").mkdir(parents=True)
    (folder / "report/report.html").touch()
    (folder / "params.yaml").touch()
    run.save(run.Experiment("longer", ["fetch.rows=1 2"], folder, resumed=False), force=False)
    assert [str(path.relative_to(folder)) for path in folder.rglob("*.*")] == ["report/report.html"]
    assert told == [["exp", "save", "--name", "longer", "--message", "juicer exp: 'fetch.rows=1 2'"]]
