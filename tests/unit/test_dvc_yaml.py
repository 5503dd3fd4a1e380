"""dvc.yaml lists what each stage uses: a line too few is a stale result, a line too many a needless run."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from dev.stage_dependencies import faults, parameters, program_of, templates
from juicer.runtime.errors import InputError
from juicer.stages.code import STAGE, Sources, list_of, read_list, text_of
from juicer.stages.hashes import ignored_in
from juicer.stages.pipeline import declared, meta_of

ROOT = Path(__file__).resolve().parents[2]
STAGES: dict[str, dict[str, Any]] = templates(YAML(typ="safe").load((ROOT / "dvc.yaml").read_text(encoding="utf-8")))
SOURCES = Sources(ROOT, remember=False)


def text_of_program(name: str) -> str:
    """The text of a stage's program."""
    return (ROOT / program_of(STAGES[name]["cmd"])).read_text(encoding="utf-8")


def test_every_stage_lists_exactly_the_parameters_and_the_code_that_it_uses() -> None:
    assert faults((ROOT / "dvc.yaml").read_text(encoding="utf-8")) == []


WRONG = {
    "params: [seed, compute, template, sft, graph.base]": ("params: [seed]", "sft: params lists"),
    "data/curated, code/sft.json": ("data/curated, code/tiny.json", "sft: deps has to end with code/sft.json"),
    ", code/sft.json": (", tasks/sft.py, code/sft.json", "sft: deps has to end with code/sft.json"),
    "tasks.sft --policy @graph.base": ("tasks.sft --policy ${graph.base}", "sft: cmd has a value that a shell"),
}
"""By what stands in dvc.yaml: what to put in its place, and what is then said."""


@pytest.mark.parametrize("right", WRONG)
def test_a_line_too_few_or_too_many_in_dvc_yaml_is_found(right: str) -> None:
    text = (ROOT / "dvc.yaml").read_text(encoding="utf-8")
    wrong, said = WRONG[right]
    assert right in text
    assert any(fault.startswith(said) for fault in faults(text.replace(right, wrong)))


@pytest.mark.parametrize("name", STAGES)
def test_a_command_is_a_constant_so_that_no_shell_reads_a_value(name: str) -> None:
    command = STAGES[name]["cmd"]
    assert "$" not in command
    # Nothing in it means anything to a shell, and a value always follows its option.
    assert re.fullmatch(r"python -m tasks\.\w+( --[a-z]+ [\w@./-]+)+", command)


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


@pytest.mark.parametrize("name", ["irft_generate", "irft_train", "rft_policy"])
def test_a_round_starts_at_the_policy_of_the_round_before(name: str) -> None:
    assert options_of(name)["--policy"] == f"@graph.{name.partition('_')[0]}.@key.previous"


def test_rft_samples_what_the_recipe_contrasts_and_watches_the_policy_of_the_round_before() -> None:
    options = options_of("rft_generate")
    assert options["--policy"] == "@graph.rft.@key.sampled"
    assert options["--current"] == "@graph.rft.@key.previous"


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
    launched = "juicer/stages/launch.py" in SOURCES.closure(program_of(STAGES[name]["cmd"]))
    assert launched == (DECLARED[name].gpus == "per process")


def test_a_stage_that_computes_on_a_model_in_one_process_declares_one_gpu() -> None:
    loading = {
        name for name in STAGES if "juicer/models/loading.py" in SOURCES.closure(program_of(STAGES[name]["cmd"]))
    }
    # `tiny` writes random weights on the CPU.
    assert {name for name in STAGES if DECLARED[name].gpus} == loading - {"tiny"}


def test_a_stage_that_keeps_a_training_record_is_a_training_run() -> None:
    recording = {
        name for name in STAGES if "TrainingRecord" in text_of_program(name) or "save_policy" in text_of_program(name)
    }
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
        assert ignored_in(ROOT).match_file(path.relative_to(ROOT).as_posix()) == only_words, path


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
    assert Sources(small).closure("tasks/work.py") == (
        "juicer/heavy/work.py",
        "juicer/kinds/__init__.py",
        "juicer/kinds/one.py",
        "juicer/kinds/two.py",
        "juicer/light/one.py",
        "juicer/stages/stage.py",
        "tasks/work.py",
    )


def test_a_list_of_code_has_the_md5_of_each_module_and_of_what_lies_beside_it(small: Path) -> None:
    files = Sources(small).files("tasks/work.py")
    assert set(files) == {*Sources(small).closure("tasks/work.py"), "juicer/light/table.csv"}
    assert files["juicer/light/one.py"] == "d41d8cd98f00b204e9800998ecf8427e"


def test_a_list_changes_with_the_modules_that_the_program_uses_and_with_no_others(small: Path) -> None:
    before = Sources(small).lists()["code/work.json"]
    for unused in (
        "juicer/light/other.py",
        "juicer/heavy/shown.py",
        "juicer/settings/base.py",
        "juicer/typed/names.py",
    ):
        (small / unused).write_text("CHANGED = 1\n")
    assert Sources(small).lists()["code/work.json"] == before
    (small / "juicer/light/one.py").write_text("import juicer.spare.words\n")
    after = Sources(small).lists()["code/work.json"]
    assert "juicer/spare/words.py" in after and "juicer/spare/words.py" not in before
    (small / "out.json").write_text(after)
    assert text_of(read_list(small / "out.json")) == after


def test_what_modules_import_is_remembered_by_their_text_and_only_if_it_can_be_read(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists = Sources(small).lists()
    with monkeypatch.context() as patch:
        patch.setattr("juicer.stages.code.ast.parse", lambda *_: pytest.fail("parsed again"))
        assert Sources(small).lists() == lists
    (small / ".juicer/imports.json").write_text("{")
    assert Sources(small).lists() == lists


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("def run(:", r"^tasks/work\.py:1: this is not Python"),
        ("\nfrom .one import x", r"^tasks/work\.py:2: a relative import \(write imports in full\)$"),
    ],
)
def test_a_program_that_cannot_be_followed_is_refused_in_one_line(small: Path, text: str, wrong: str) -> None:
    (small / "tasks/work.py").write_text(text)
    with pytest.raises(InputError, match=wrong):
        Sources(small).lists()


def test_there_is_a_list_for_every_program_of_dvc_yaml() -> None:
    programs = {program_of(stage["cmd"]) for stage in STAGES.values()}
    assert programs == set(SOURCES.programs())
    assert STAGE in STAGES and list_of("tasks/sft.py") in STAGES["sft"]["deps"]


def test_parameters_of_the_harness_count_as_the_stage_s_own(small: Path) -> None:
    assert parameters("tasks/work.py", Sources(small), small) == {"seed", "work.part", "compute"}


def test_a_key_that_is_computed_is_refused(small: Path) -> None:
    (small / "tasks/odd.py").write_text("def run(stage, key): stage.value(key)")
    with pytest.raises(ValueError, match="as a literal"):
        parameters("tasks/odd.py", Sources(small), small)


def test_the_page_that_dvc_plots_show_writes_is_no_change_to_the_repository():
    assert "/dvc_plots/" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
