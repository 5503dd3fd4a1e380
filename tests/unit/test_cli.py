"""The front door: what a command line is taken for, from which folder, and how its mistakes are told."""

import contextlib
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from juicer import cli
from juicer.recipe import activation
from juicer.recipe.activation import dump, load
from juicer.runtime.errors import InputError
from juicer.stages.workspace import Held
from tests.stub_models import write_stub

ROOT = Path(__file__).resolve().parents[2]
ALONE = Held(None, "token")
COMMANDS = [each.name or each.callback.__name__ for each in cli.app.registered_commands if each.callback]


def juicer(*words: str) -> Result:
    """Run a command line in this process, which stays where it is."""
    with contextlib.chdir(Path.cwd()):
        return CliRunner().invoke(cli.app, list(words), prog_name="juicer")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with two recipes and none active, as the working directory."""
    folder = tmp_path / "project"
    (folder / "recipes").mkdir(parents=True)
    (folder / "tasks").mkdir()
    (folder / "dvc.yaml").touch()
    for name in ("quickstart", "mine"):
        (folder / f"recipes/{name}.yaml").write_bytes((ROOT / "recipes/quickstart.yaml").read_bytes())
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Takes the place of the stages and of the summary; notes that they were asked for."""
    asked = list[str]()
    monkeypatch.setattr(cli, "reproduce", lambda held, at_a_time, until, quiet: asked.append("stages"))
    monkeypatch.setattr(cli, "summary", lambda **_: asked.append("summary"))
    return asked


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_by_examples_that_it_accepts(
    command: str, project: Path, stages: list[str]
) -> None:
    lines = juicer(command, "--help").stdout.splitlines()
    examples = [line.strip().split("   ")[0] for line in lines[lines.index("  Examples:") + 1 :]]
    examples = [line for line in examples if line.startswith("juicer ")]
    assert examples and all(example.split()[1] == command for example in examples)
    for example in examples:
        told = juicer(*example.split()[1:], "--no-such-option").stderr
        assert "no such option: --no-such-option" in told.lower()


def test_a_quiet_run_is_quiet_in_every_part(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = list[tuple[str, bool]]()
    monkeypatch.setattr(cli, "reproduce", lambda held, at_a_time, until, quiet: told.append(("stages", quiet)))
    monkeypatch.setattr(cli, "find_rounds", lambda held, at_a_time, until, quiet: told.append(("rounds", quiet)))
    monkeypatch.setattr(cli, "summary", lambda *, closing, registered: told.append(("summary", registered)))
    assert juicer("run", "quickstart", "--quiet").exit_code == 0
    assert juicer("run", "quickstart", "--until", "report").exit_code == 0
    assert told == [
        ("rounds", True), ("stages", True), ("summary", True), ("rounds", False), ("stages", False), ("summary", False)
    ]  # fmt: skip


@pytest.mark.parametrize(("until", "asked"), [("sft", ["stages"]), ("report", ["stages", "summary"])])
def test_a_run_that_ends_before_the_report_has_no_summary_to_show(
    project: Path, stages: list[str], until: str, asked: list[str]
) -> None:
    assert juicer("run", "quickstart", "--until", until).exit_code == 0
    assert stages == asked


def test_no_command_is_a_question_for_help() -> None:
    done = juicer()
    assert done.exit_code == 0
    assert all(f"\n  {command} " in done.stdout for command in COMMANDS)


def test_every_command_can_be_asked_for_the_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "Traceback" not in juicer("check").stderr
    assert "Traceback" in juicer("check", "--debug").stderr
    assert "Traceback" in juicer("--debug", "check").stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("chekc", "error: juicer: no such command 'chekc' (did you mean check?)"),
        ("use --tinny", "error: juicer use: no such option: --tinny (did you mean --tiny?)"),
        ("use quickstrt", "error: quickstrt: no such recipe (did you mean 'quickstart'?)"),
        ("use recipes/mien.yaml", "error: recipes/mien.yaml: no such recipe (did you mean 'recipes/mine.yaml'?)"),
        ("use mine sed=1", "error: recipes/mine.yaml: unknown parameter 'sed' (did you mean 'seed'?)"),
        ("describe irft.trainin", "error: recipe: no parameter or section is called 'irft.trainin' (did you mean "
         "'irft.training'?)"),
        ("plan mine --gpu H10", "error: --gpu: unknown GPU 'H10' (did you mean 'H100'?)"),
        ("check now", "error: juicer check: got unexpected extra argument(s) (now) (see: juicer check --help)"),
    ],
)  # fmt: skip
def test_a_mistyped_word_names_the_nearest_right_one_on_one_line(project: Path, words: str, told: str) -> None:
    done = juicer(*words.split())
    assert done.exit_code != 0
    assert (done.stdout, done.stderr) == ("", told + "\n")


def test_a_mistake_in_the_command_line_and_an_error_have_exit_codes_of_their_own(project: Path) -> None:
    assert juicer("use", "--tinny").exit_code == 2
    assert juicer("use", "nothing-like-it").exit_code == 1


def test_outside_a_project_one_line_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for command in ("run", "use", "check", "plan", "status", "report", "promote", "rollback", "evaluate", "ui"):
        done = juicer(command)
        assert done.exit_code == 1
        assert done.stderr.startswith(f"error: {tmp_path}: not inside a Juicer project (change into a checkout")
        assert done.stderr.count("\n") == 1


def test_the_root_is_found_from_a_folder_below_and_paths_start_where_the_user_stands(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project / "recipes")
    assert juicer("use", "mine.yaml").stdout == "params.yaml written from recipes/mine.yaml\n"
    assert (project / "params.yaml").is_file()
    monkeypatch.chdir(project / "tasks")
    assert juicer("use", "../recipes/mine.yaml").exit_code == 0
    assert "did you mean '../recipes/mine.yaml'?" in juicer("use", "../recipes/mien.yaml").stderr
    assert "(one of: ../recipes/mine.yaml, ../recipes/quickstart.yaml)" in juicer("use").stderr
    assert juicer("check").stdout == "params.yaml: recipe 'quickstart' is valid\n"


def test_a_recipe_outside_of_the_project_keeps_its_whole_path(project: Path, tmp_path: Path) -> None:
    (tmp_path / "theirs.yaml").write_bytes((project / "recipes/mine.yaml").read_bytes())
    assert juicer("use", "../theirs.yaml").stdout == f"params.yaml written from {tmp_path}/theirs.yaml\n"


def test_run_takes_the_given_recipe_else_the_active_one_else_the_quickstart(project: Path, stages: list[str]) -> None:
    assert juicer("run").stdout == "params.yaml written from recipes/quickstart.yaml\n"
    assert juicer("run").stdout == "params.yaml: recipe 'quickstart' is valid\n"
    assert juicer("run", "seed=3").stdout == "params.yaml written from params.yaml\n"
    assert "\nseed: 3\n" in (project / "params.yaml").read_text()
    assert juicer("run", "mine", "seed=4").stdout == "params.yaml written from recipes/mine.yaml\n"
    assert "\nseed: 4\n" in (project / "params.yaml").read_text()
    assert stages == ["stages", "summary"] * 4


def test_run_refuses_an_active_recipe_that_is_not_valid(project: Path, stages: list[str]) -> None:
    juicer("use", "mine")
    params = project / "params.yaml"
    params.write_text(params.read_text().replace("seed: 0", "sed: 0"))
    done = juicer("run")
    assert (done.exit_code, stages) == (1, [])
    assert "did you mean 'seed'?" in done.stderr


def test_check_looks_at_the_models_that_the_active_recipe_names(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_stub(Path("model"))
    monkeypatch.setattr(activation, "probe_models", lambda recipe, where: [])
    assert juicer("use", "quickstart", "policy.model=model").exit_code == 0
    write_stub(Path("model"), quantization_config={"quant_method": "gptq"})
    assert "policy.model: the weights are quantised (gptq)" in juicer("check").stderr


def test_use_writes_what_a_dry_run_prints(project: Path) -> None:
    printed = juicer("use", "mine", "seed=5", "--dry-run").stdout
    assert not (project / "params.yaml").exists()
    juicer("use", "mine", "seed=5")
    assert (project / "params.yaml").read_text() == printed == dump(*load(Path("recipes/mine.yaml"), ["seed=5"]))


def test_plan_hands_on_its_options(project: Path) -> None:
    done = juicer("plan", "mine", "seed=1", "--gpu", "A100-80GB", "--utilisation", "0.5", "--response-tokens", "9")
    assert "x A100-80GB" in done.stdout and "50% of" in done.stdout and "response 9, sample 9" in done.stdout


def test_report_says_where_the_page_is_or_that_there_is_none(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = juicer("report")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == "error: report/report.html: there is no report yet (make it: juicer run)\n"
    (project / "report").mkdir()
    (project / "report/report.html").touch()
    assert juicer("report").stdout == f"{project}/report/report.html\n"
    opened = list[str]()
    monkeypatch.setattr(cli.webbrowser, "open", lambda address: opened.append(address) or True)
    assert juicer("report", "--open").exit_code == 0
    assert opened == [(project / "report/report.html").as_uri()]
    monkeypatch.setattr(cli.webbrowser, "open", lambda address: False)
    assert "no browser was found" in juicer("report", "--open").stderr


def test_promotion_evaluation_and_servers_are_those_of_the_flows(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = list[Any]()

    def command(*given: Any, **named: Any) -> int:
        asked.append((given, named))
        return 3

    monkeypatch.setattr(cli, "flow", lambda name: SimpleNamespace(command=command, run=command, unlock=command))
    (project / "model").mkdir()
    (project / "mlflow").mkdir()
    monkeypatch.chdir(project / "mlflow")
    assert juicer("promote", "models:/x/1", "--gates", "mine.yaml", "--dry-run").exit_code == 3
    assert juicer("rollback").exit_code == 3
    juicer("promote", "--unlock", "x")
    juicer("evaluate", "../model")
    juicer("evaluate", "models:/x/1")
    juicer("ui", "--port", "1", "--gpus", "2")
    assert asked == [
        (("models:/x/1", "mlflow/mine.yaml"), {"dry_run": True}),
        (("challenger", "mlflow/promotion.yaml"), {"dry_run": False, "rollback": True}),
        (("x",), {}),
        (("model", "mlflow/promotion.yaml"), {}),
        (("models:/x/1", "mlflow/promotion.yaml"), {}),
        ((1, 5000, 2, False), {}),
    ]


def test_the_flows_that_a_command_calls_have_what_it_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for name, functions in {
        "promote": ("command", "unlock"), "evaluate": ("command",), "ui": ("run",), "status": ("read",),
    }.items():  # fmt: skip
        assert [function for function in functions if not callable(getattr(cli.flow(name), function))] == []


def test_an_interrupted_run_waits_for_its_stages_and_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    waits = [sys.executable, "-c", "import time; time.sleep(0.5); open('ended', 'w')"]
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGINT)
    with cli._ending(waits, ALONE) as (process, told):
        signal.raise_signal(signal.SIGINT)
        process.wait()
    assert told == [signal.SIGINT]
    assert (tmp_path / "ended").exists()
    assert signal.getsignal(signal.SIGINT) == before


def test_a_stage_s_failure_and_an_interrupt_end_a_run_by_different_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ended:
        def __init__(self, told: list[signal.Signals]) -> None:
            self.told = told

        def __enter__(self) -> Any:
            return SimpleNamespace(wait=lambda: 255), self.told

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(cli, "_ending", lambda command, held: Ended([]))
    with pytest.raises(InputError, match="dvc repro failed with exit code 255"):
        cli.reproduce(ALONE)
    monkeypatch.setattr(cli, "_ending", lambda command, held: Ended([signal.SIGINT]))
    with pytest.raises(cli.typer.Exit) as left:
        cli.reproduce(ALONE)
    assert left.value.exit_code == 130


def test_help_and_check_start_without_heavy_libraries() -> None:
    heavy = "{'torch', 'transformers', 'datasets', 'mlflow', 'prefect', 'dvc', 'numpy'}"
    for words in (["--help"], ["check"], ["use", "quickstart", "--dry-run"], ["describe"]):
        code = (
            "import sys\nfrom juicer.cli import app\n"
            f"try: app({words!r})\nexcept SystemExit as left: assert not left.code\n"
            f"print(sorted({heavy} & set(sys.modules)), file=sys.stderr)"
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        assert done.stderr == "[]\n", words


def test_a_shell_can_complete_commands_recipes_and_keys(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli._complete("rec") == ["recipes/mine.yaml", "recipes/quickstart.yaml"]
    assert cli._complete("irft.training.bat") == ["irft.training.batch_size="]
    asked = {"_JUICER_COMPLETE": "complete_bash", "COMP_WORDS": "juicer rep", "COMP_CWORD": "1"}
    done = CliRunner().invoke(cli.app, [], prog_name="juicer", env=asked)
    assert done.stdout.strip() == "report"


def test_the_command_of_another_checkout_is_refused_and_names_both_folders(project: Path) -> None:
    shutil.copytree(ROOT / "juicer", project / "juicer", ignore=shutil.ignore_patterns("__pycache__"))
    done = juicer("check")
    assert done.exit_code == 1
    assert f"{project}: this command is the code of another checkout, {ROOT}, not of this project" in done.stderr
    assert f"in {project}: make setup, or use: python -m juicer" in done.stderr
    shutil.rmtree(project / "juicer")
    (project / "juicer").symlink_to(ROOT / "juicer")
    assert "another checkout" not in juicer("check").stderr


def test_an_installed_copy_of_the_code_is_refused_in_a_project_with_code_of_its_own(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = project / "lib/site-packages/juicer/cli.py"
    for path in (project / "juicer/cli.py", installed):
        path.parent.mkdir(parents=True)
        path.touch()
    monkeypatch.setattr(cli, "__file__", str(installed))
    assert f"an installed copy of the code, {installed.parents[1]}, not of this project" in juicer("check").stderr
