"""dvc.yaml lists what each stage uses: a line too few is a stale result, a line too many a needless run."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from dev.stage_dependencies import (
    closure,
    code_of,
    code_used,
    ignored,
    is_code,
    module_of,
    parameters,
    rewritten,
    templates,
    words_of,
)
from juicer.runtime.errors import InputError
from juicer.stages.pipeline import declared, meta_of

ROOT = Path(__file__).resolve().parents[2]
STAGES: dict[str, dict[str, Any]] = templates(YAML(typ="safe").load((ROOT / "dvc.yaml").read_text(encoding="utf-8")))


def program_of(name: str) -> str:
    """The text of a stage's program."""
    return (ROOT / module_of(STAGES[name]["cmd"])).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_lists_the_code_that_it_uses(name: str) -> None:
    assert code_of(STAGES[name]) == code_used(STAGES[name]), "run: python -m dev.stage_dependencies --write"


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_lists_exactly_the_parameters_that_it_reads(name: str) -> None:
    listed = STAGES[name].get("params", [])
    command = STAGES[name]["cmd"]
    assert sorted(listed) == sorted(parameters(module_of(command)) | words_of(command))


@pytest.mark.parametrize("name", STAGES)
def test_a_command_is_a_constant_so_that_no_shell_reads_a_value(name: str) -> None:
    command = STAGES[name]["cmd"]
    assert "$" not in command
    # Nothing in it means anything to a shell, and a value always follows its option.
    assert re.fullmatch(r"python -m tasks\.\w+( --[a-z]+ [\w@./-]+)+", command)


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_lists_its_data_before_its_code(name: str) -> None:
    kinds = [is_code(path) for path in STAGES[name].get("deps", [])]
    assert kinds == sorted(kinds)


def options_of(name: str) -> dict[str, str]:
    """The options of a stage's command, by name."""
    words = STAGES[name]["cmd"].split()[3:]
    return dict(zip(words[::2], words[1::2], strict=True))


def test_what_a_stage_calls_initial_or_sft_is_the_sft_policy_in_every_round() -> None:
    held = {name: {"--initial", "--sft"} & options_of(name).keys() for name in STAGES}
    given = {name: options for name, options in held.items() if options}
    assert given == {"irft_train": {"--initial"}, "rft_policy": {"--initial"}, "evaluate": {"--sft"}}
    for name, (option,) in given.items():
        assert options_of(name)[option] == "models/sft" == STAGES["sft"]["outs"][0]
        assert "models/sft" in STAGES[name]["deps"]


@pytest.mark.parametrize("name", ["irft_generate", "irft_train", "rft_generate", "rft_policy"])
def test_a_round_starts_at_the_policy_of_the_round_before(name: str) -> None:
    assert options_of(name)["--policy"] == f"@graph.{name.partition('_')[0]}.@key.previous"


@pytest.mark.parametrize("name", ["irft_generate", "rft_generate"])
def test_a_round_samples_for_its_own_slice(name: str) -> None:
    assert options_of(name)["--part"] == f"@graph.{name.partition('_')[0]}.@key.part"


def test_every_stage_of_a_round_is_told_which_round_it_is() -> None:
    rounds = [name for name in STAGES if name.startswith(("irft_", "rft_"))]
    assert len(rounds) == 5
    for name in rounds:
        assert options_of(name)["--round"] == "@key"


def test_the_control_starts_at_sft_and_matches_the_last_round_of_each_method() -> None:
    options = options_of("sft_matched")
    assert options["--policy"] == "models/sft"
    assert {name: options[f"--{name}"] for name in ("irft", "rft")} == {
        name: f"@graph.sft_matched.@key.{name}" for name in ("irft", "rft")
    }


DECLARED = declared(ROOT / "dvc.yaml")


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_that_launches_processes_declares_a_gpu_for_each(name: str) -> None:
    launched = "juicer/stages/launch.py" in closure(module_of(STAGES[name]["cmd"]))
    assert launched == (DECLARED[name].gpus == "per process")


def test_a_stage_that_computes_on_a_model_in_one_process_declares_one_gpu() -> None:
    loading = {name for name in STAGES if "juicer/models/loading.py" in closure(module_of(STAGES[name]["cmd"]))}
    # `tiny` writes random weights on the CPU.
    assert {name for name in STAGES if DECLARED[name].gpus} == loading - {"tiny"}


def test_the_stages_that_compute_on_gpus_are_the_exact_ones_but_for_the_quickstart_s() -> None:
    on_gpus = {name for name in STAGES if DECLARED[name].gpus}
    assert {name for name in STAGES if DECLARED[name].code == "exact"} == on_gpus - {"pretrain"}


def test_a_stage_that_keeps_a_training_record_is_a_training_run() -> None:
    recording = {name for name in STAGES if "TrainingRecord" in program_of(name) or "save_policy" in program_of(name)}
    training = {name for name in STAGES if DECLARED[name].run == "training"}
    assert recording and recording <= training
    assert {name: meta.run for name, meta in DECLARED.items() if meta.run and name not in training} == {
        "evaluate": "evaluation",
        "leaderboard": "leaderboard",
    }


def test_an_unknown_declaration_is_refused_with_the_nearest_right_one() -> None:
    with pytest.raises(InputError, match=r"dvc.yaml: sft: meta: unknown parameter 'gpu' \(did you mean 'gpus'\?\)"):
        meta_of("sft", {"gpu": 1})


def test_an_ignored_package_holds_nothing_but_a_docstring() -> None:
    found = [path for package in ("juicer", "tasks") for path in (ROOT / package).rglob("__init__.py")]
    assert found
    for path in found:
        body = ast.parse(path.read_text(encoding="utf-8")).body
        only_words = all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in body)
        assert ignored(path.relative_to(ROOT).as_posix()) == only_words, path


def test_every_file_that_dvcignore_names_exists() -> None:
    lines = (ROOT / ".dvcignore").read_text(encoding="utf-8").splitlines()
    named = [line.removeprefix("/") for line in lines if line.endswith(".py") and "*" not in line and line[0] == "/"]
    assert named
    assert [name for name in named if not (ROOT / name).is_file()] == []


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A project of a few modules."""
    files = {
        ".dvcignore": "__pycache__/\n/juicer/*/__init__.py\n!/juicer/kinds/__init__.py\n/juicer/heavy/shown.py\n",
        "juicer/heavy/__init__.py": '"""Only words."""',
        "juicer/heavy/work.py": "from juicer.light import one\nfrom juicer.heavy import shown",
        "juicer/heavy/shown.py": "import juicer.spare.words",
        "juicer/heavy/__pycache__/work.pyc": "",
        "juicer/light/one.py": "",
        "juicer/light/other.py": "",
        "juicer/light/table.csv": "",
        "juicer/kinds/__init__.py": "from juicer.kinds import one",
        "juicer/kinds/one.py": "",
        "juicer/kinds/two.py": "",
        "juicer/spare/words.py": "",
        "juicer/typed/names.py": "",
        "juicer/settings/base.py": "import juicer.spare.words",
        "juicer/stages/stage.py": (
            "import juicer.settings.base\nclass Stage: ...\ndef _run(stage): stage.read('compute', int)"
        ),
        "tasks/work.py": (
            "from typing import TYPE_CHECKING\nfrom juicer.stages.stage import Stage\n"
            "if TYPE_CHECKING:\n    import juicer.typed.names\n"
            "def run(stage: Stage):\n    import juicer.heavy.work, torch\n    from juicer.kinds import two\n"
            "    return stage.value('seed'), stage.read('work.part', int)"
        ),
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_modules_are_found_inside_functions_and_at_any_depth(small: Path) -> None:
    assert closure("tasks/work.py", small) == (
        "juicer/heavy/work.py",
        "juicer/kinds/__init__.py",
        "juicer/kinds/one.py",
        "juicer/kinds/two.py",
        "juicer/light/one.py",
        "juicer/stages/stage.py",
        "tasks/work.py",
    )


def test_a_cheap_stage_lists_rooms(small: Path) -> None:
    assert code_used({"cmd": "python -m tasks.work"}, small) == [
        "juicer/heavy",
        "juicer/kinds",
        "juicer/light",
        "juicer/stages",
        "tasks/work.py",
    ]


def test_an_exact_stage_lists_a_room_only_where_it_uses_all_of_it(small: Path) -> None:
    assert code_used({"cmd": "python -m tasks.work", "meta": {"code": "exact"}}, small) == [
        "juicer/heavy",
        "juicer/kinds",
        "juicer/light/one.py",
        "juicer/stages",
        "tasks/work.py",
    ]


def test_parameters_of_the_harness_count_as_the_stage_s_own(small: Path) -> None:
    assert parameters("tasks/work.py", small) == {"seed", "work.part", "compute"}


def test_a_key_that_is_computed_is_refused(small: Path) -> None:
    (small / "tasks/odd.py").write_text("def run(stage, key): stage.value(key)")
    with pytest.raises(ValueError, match="as a literal"):
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
         juicer/heavy, juicer/kinds, juicer/light, juicer/stages, tasks/work.py]
      # why
      params: [seed]
      outs: [out]
  bare:
    cmd: python -m juicer.stages.stage
    deps:
      [juicer/stages]
    outs: [other]
"""
    )
    assert rewritten(rewritten(before, small), small) == rewritten(before, small)


def test_the_page_that_dvc_plots_show_writes_is_no_change_to_the_repository():
    assert "/dvc_plots/" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
