"""dvc.yaml lists what each stage uses: a line too few is a stale result, a line too many a needless run."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.dependencies import closure, code_of, is_code, module_of, parameters, rewritten, templates

ROOT = Path(__file__).resolve().parents[2]
STAGES = templates(YAML(typ="safe").load((ROOT / "dvc.yaml").read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_lists_exactly_the_modules_that_it_imports(name: str) -> None:
    mend = "run: python tests/dependencies.py --write"
    assert code_of(STAGES[name]) == list(closure(module_of(STAGES[name]["cmd"]))), mend


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_lists_exactly_the_parameters_that_it_reads(name: str) -> None:
    listed = STAGES[name].get("params", [])
    assert sorted(listed) == sorted(parameters(module_of(STAGES[name]["cmd"])))


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_lists_its_data_before_its_code(name: str) -> None:
    kinds = [is_code(path) for path in STAGES[name].get("deps", [])]
    assert kinds == sorted(kinds)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A project of a few modules."""
    files = {
        "juicer/__init__.py": '"""Only words."""',
        "juicer/light.py": "",
        "juicer/heavy.py": "from juicer import light",
        "juicer/typed.py": "",
        "juicer/kinds/__init__.py": "from juicer.kinds import one",
        "juicer/kinds/one.py": "",
        "juicer/kinds/two.py": "",
        "juicer/spare.py": "",
        "tasks/__init__.py": "",
        "juicer/recipe/activation.py": "import juicer.spare",
        "juicer/stages/stage.py": (
            "import juicer.recipe.activation\nclass Stage: ...\ndef _run(stage): stage.read('compute', int)"
        ),
        "tasks/work.py": (
            "from typing import TYPE_CHECKING\nfrom juicer.stages.stage import Stage\n"
            "if TYPE_CHECKING:\n    import juicer.typed\n"
            "def run(stage: Stage):\n    import juicer.heavy, torch\n    from juicer.kinds import two\n"
            "    return stage.value('seed'), stage.read('work.part', int)"
        ),
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_modules_are_found_inside_functions_and_at_any_depth(small: Path) -> None:
    assert closure("tasks/work.py", small) == (
        "juicer/heavy.py",
        "juicer/kinds/__init__.py",
        "juicer/kinds/one.py",
        "juicer/kinds/two.py",
        "juicer/light.py",
        "juicer/stages/stage.py",
        "tasks/work.py",
    )


def test_parameters_of_the_harness_count_as_the_stage_s_own(small: Path) -> None:
    assert parameters("tasks/work.py", small) == {"seed", "work.part", "compute"}


def test_a_key_that_is_computed_is_refused(small: Path) -> None:
    (small / "tasks/odd.py").write_text("def run(stage, key): stage.value(key)")
    with pytest.raises(ValueError, match="no literal"):
        parameters("tasks/odd.py", small)


def test_rewriting_keeps_data_comments_and_everything_else(small: Path) -> None:
    before = """# first
stages:
  work:
    foreach: ${graph.work}
    do:
      cmd: python -m tasks.work --in ${item.a}
      deps: ["${item.a}", data/x]
      # why
      params: [seed]
      outs: [out]
  bare:
    cmd: python -m juicer.stages.stage
    outs: [other]
"""
    assert (
        rewritten(before, small)
        == """# first
stages:
  work:
    foreach: ${graph.work}
    do:
      cmd: python -m tasks.work --in ${item.a}
      deps:
        ["${item.a}", data/x,
         juicer/heavy.py, juicer/kinds/__init__.py, juicer/kinds/one.py, juicer/kinds/two.py, juicer/light.py,
         juicer/stages/stage.py, tasks/work.py]
      # why
      params: [seed]
      outs: [out]
  bare:
    cmd: python -m juicer.stages.stage
    deps:
      [juicer/stages/stage.py]
    outs: [other]
"""
    )
    assert rewritten(rewritten(before, small), small) == rewritten(before, small)


def test_the_page_that_dvc_plots_show_writes_is_no_change_to_the_repository():
    assert "/dvc_plots/" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
