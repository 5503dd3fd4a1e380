"""From a file to a recipe that `juicer use` accepts, and rows as a model will see them."""

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from typer.testing import CliRunner, Result

from juicer import cli
from juicer.drafting import init as drafting
from juicer.drafting.machine import Gpu, Machine
from juicer.recipe.activation import load
from juicer.runtime.devices import GIB
from juicer.runtime.errors import InputError
from tests.small_pipeline import save_tiny_model

ROOT = Path(__file__).resolve().parents[2]
LAPTOP, H100 = Machine((), 16 * GIB, 2), Machine((Gpu("NVIDIA H100 80GB HBM3", 80 * GIB),), 64 * GIB, 8)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny GPT-NeoX with a context of 128 tokens."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_tiny_model(folder)
    return folder


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with the recipes, as the working directory, on a machine without a GPU."""
    (tmp_path / "tasks").mkdir()
    (tmp_path / "dvc.yaml").touch()
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(drafting, "look_at_machine", lambda: LAPTOP)
    return tmp_path


def juicer(*words: str) -> Result:
    """Run a command line in this process, which stays where it is."""
    with contextlib.chdir(Path.cwd()):
        return CliRunner().invoke(cli.app, list(words), prog_name="juicer")


def write(name: str, row: Callable[[int], Any], rows: int = 120) -> None:
    Path(name).write_text("".join(f"{json.dumps(row(number))}\n" for number in range(rows)))


def plain(number: int) -> dict[str, Any]:
    return {"prompt": f"How do I fly kite {number}?", "response": f"Hold line {number}."}


def turns(number: int) -> dict[str, Any]:
    texts = [f"Hi {number}", "Hello", "A kite?", f"Hold it {number}."]
    roles = ["user", "assistant"] * 2
    return {
        "messages": [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)],
        "id": number,
    }


def pairs(number: int) -> dict[str, Any]:
    prompt = f"\n\nHuman: Kite {number}?\n\nAssistant: "
    return {"chosen": f"{prompt}Hold it.", "rejected": f"{prompt}No."}


def questions(number: int) -> dict[str, Any]:
    return {"frage": f"Kite {number}?", "antwort": f"Hold it {number}."}


@pytest.mark.parametrize(
    ("row", "options", "expected"),
    [
        (plain, [], {"format": "prompt-response"}),
        (turns, [], {"format": "messages", "exchange": "last"}),
        (pairs, [], {"format": "hh"}),
        (questions, ["--columns", "prompt=frage,response=antwort"], {"format": "auto"}),
    ],
    ids=["prompt-response", "messages", "hh", "columns"],
)
def test_a_file_becomes_a_recipe_that_use_accepts(
    row: Callable[[int], Any], options: list[str], expected: dict[str, str], project: Path, model: Path
) -> None:
    write("rows.jsonl", row)
    done = juicer("init", "--data", "rows.jsonl", "--model", str(model), *options)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.endswith("recipes/mine.yaml written\nNext: juicer run recipes/mine.yaml\n")
    recipe, graph = load(Path("recipes/mine.yaml"), [])
    assert {key: getattr(recipe.fetch, key) for key in expected} == expected
    assert recipe.name == "mine" and recipe.fetch.source == "rows.jsonl" and recipe.policy.model == str(model)
    assert recipe.template.max_prompt_tokens + recipe.template.max_response_tokens <= 128
    assert len(graph.irft) == 3 and len(graph.rft) == 1
    used = juicer("use", "mine")
    assert used.exit_code == 0 and "params.yaml written from recipes/mine.yaml" in used.stdout


def test_what_is_printed_says_what_was_found_chosen_and_planned(project: Path, model: Path) -> None:
    write("rows.jsonl", turns)
    said = juicer("init", "--data", "rows.jsonl", "--model", str(model)).stdout
    for expected in (
        "format    messages, 120 rows",
        "not read  id (120)",
        "120 dialogues with several answers, up to 2",
        "all: up to 120 rows more, one for each earlier answer",
        "GPTNeoXForCausalLM",
        "no GPU, 16.0 GiB of free memory, 2 cores",
        "--- rows.jsonl:1: prompt",
        "Assistant:>>> Hold it 0.<|endoftext|><<<",
        "Plan: 1 x CPU",
        "Hours are known for GPUs only",
    ):
        assert expected in said, said
    assert "Traceback" not in said and "None" not in said


def test_on_a_gpu_the_plan_has_hours(project: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drafting, "look_at_machine", lambda: H100)
    write("rows.jsonl", plain)
    said = juicer("init", "--data", "rows.jsonl", "--model", str(model), "--dry-run").stdout
    assert "Plan: 1 x NVIDIA H100 80GB HBM3" in said and "Hours are known" not in said
    assert "threads" not in said


def test_a_model_that_does_not_fit_whole_gets_adapters_and_no_rft(
    project: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drafting, "look_at_machine", lambda: Machine((), 24 * GIB, 2))
    write("rows.jsonl", plain)
    done = juicer("init", "--data", "rows.jsonl")
    assert done.exit_code == 0, done.stderr
    recipe, _ = load(Path("recipes/mine.yaml"), [])
    assert recipe.policy.model == "EleutherAI/pythia-1.4b"
    assert recipe.sft.lora is not None and recipe.irft.training.lora is not None and recipe.rft.rounds == 0
    assert "the default, as in recipes/hh-sft.yaml" in done.stdout and "RFT is off" in done.stdout
    assert "lengths are estimated" in done.stdout


def test_with_a_scorer_the_best_rows_are_kept_and_its_kind_is_that_of_its_architecture(
    project: Path, model: Path
) -> None:
    shutil.copytree(model, "judge")
    values = json.loads(Path("judge/config.json").read_text())
    values |= {"architectures": ["GPTNeoXForSequenceClassification"], "id2label": {"0": "LABEL_0"}}
    Path("judge/config.json").write_text(json.dumps(values))
    write("rows.jsonl", plain)
    done = juicer("init", "--data", "rows.jsonl", "--model", str(model), "--scorer", "judge")
    assert done.exit_code == 0, done.stderr
    recipe, _ = load(Path("recipes/mine.yaml"), [])
    assert (recipe.scorer.kind, recipe.scorer.model) == ("sequence-classification", "judge")
    assert recipe.curate.keep is not None and 40 <= recipe.curate.keep <= 96


def test_a_model_of_the_hub_is_pinned_and_its_configuration_kept(
    project: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = list[str]()

    def download(name: str, *, revision: str, **_: Any) -> str:
        asked.append(f"{name}@{revision}")
        return str(model)

    commit = "c0ffee" * 6 + "c0ff"
    hub = SimpleNamespace(model_info=lambda name, **given: SimpleNamespace(sha=commit))
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    write("rows.jsonl", plain)
    done = juicer("init", "--data", "rows.jsonl", "--model", "someone/kite", "--dry-run")
    assert done.exit_code == 0, done.stderr
    assert not Path("recipes/models/kite.json").exists()
    done = juicer("init", "--data", "rows.jsonl", "--model", "someone/kite")
    assert done.exit_code == 0, done.stderr
    recipe, graph = load(Path("recipes/mine.yaml"), [])
    assert (recipe.policy.model, recipe.policy.revision) == ("someone/kite", commit)
    assert set(asked) == {f"someone/kite@{commit}"} and "policy" in graph.downloads
    assert Path("recipes/models/kite.json").read_bytes() == (model / "config.json").read_bytes()
    assert "its config.json is kept as recipes/models/kite.json" in done.stdout


def test_a_dry_run_prints_the_recipe_and_writes_nothing(project: Path, model: Path) -> None:
    write("rows.jsonl", plain)
    before = sorted(project.rglob("*"))
    printed = juicer("init", "--data", "rows.jsonl", "--model", str(model), "--dry-run").stdout
    assert sorted(project.rglob("*")) == before
    juicer("init", "--data", "rows.jsonl", "--model", str(model))
    assert printed.endswith((project / "recipes/mine.yaml").read_text())


def test_a_recipe_that_exists_is_replaced_only_by_force(project: Path, model: Path) -> None:
    write("rows.jsonl", plain)
    kept = (project / "recipes/hh-sft.yaml").read_bytes()
    words = ("init", "--data", "rows.jsonl", "--model", str(model), "--out", "recipes/hh-sft")
    done = juicer(*words)
    told = "error: recipes/hh-sft.yaml: the recipe exists already (--force replaces it; or give another --out)\n"
    assert (done.exit_code, done.stderr) == (1, told)
    assert (project / "recipes/hh-sft.yaml").read_bytes() == kept
    assert juicer(*words, "--force").exit_code == 0
    assert load(Path("recipes/hh-sft.yaml"), [])[0].name == "hh-sft"


def test_run_starts_the_recipe_at_once(project: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = list[list[str]]()
    monkeypatch.setattr(cli, "run", started.append)
    (project / "below").mkdir()
    monkeypatch.chdir(project / "below")
    write("rows.jsonl", plain)
    done = juicer("init", "--data", "rows.jsonl", "--model", str(model), "--out", "../recipes/Kite_2.yaml", "--run")
    assert done.exit_code == 0, done.stderr
    assert started == [["recipes/Kite_2.yaml"]]
    text = (project / "recipes/Kite_2.yaml").read_text()
    assert "name: kite-2" in text and "source: below/rows.jsonl" in text


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--data", "none.jsonl"], "none.jsonl: no such file or folder"),
        (["--data", "rows.jsonl", "--model", "./a/none"], "error: --model: no such folder: ./a/none"),
        (["--data", "rows.jsonl", "--name", "My Recipe"], "'My Recipe' is not the name of a recipe"),
        (["--data", "rows.jsonl", "--scorer", "MODEL"], "is a GPTNeoXForCausalLM, not a reward model"),
        (["--data", "rows.jsonl", "--model", "MODEL", "--revision", "a" * 40], "is a folder, which has no revision"),
        (["--data", "rows.jsonl", "--model", "someone/something"], "--revision COMMIT and save its config.json as "
         "recipes/models/something.json"),
        (["--data", "rows.jsonl", "--model", "someone/something", "--revision", "a" * 40],
         "there is no config.json of 'someone/something' here (save it as recipes/models/something.json)"),
        (["--data", "rows.jsonl", "--columns", "prompt=promt,response=response"], "promt"),
        (["--data", "rows.jsonl", "--format", "sharegtp"], "format"),
        (["--data", "few.jsonl", "--model", "MODEL"], "3 usable rows with 3 different prompts are too few"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_writes_nothing(options: list[str], told: str, project: Path, model: Path) -> None:
    write("rows.jsonl", plain)
    write("few.jsonl", plain, rows=3)
    done = juicer("init", *[str(model) if word == "MODEL" else word for word in options])
    assert done.exit_code == 1, done.stdout
    assert told in done.stderr and done.stderr.count("\n") == 1
    assert not (project / "recipes/mine.yaml").exists()


def test_look_shows_rows_outside_of_any_project(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write("rows.jsonl", turns, rows=5)
    done = juicer("look", "rows.jsonl", "--model", str(model), "--rows", "1")
    assert done.exit_code == 0, done.stderr
    assert "data      rows.jsonl\nformat    messages, 5 rows" in done.stdout
    assert "response   >>>Hold it 0.<<<" in done.stdout
    assert "Assistant:>>> Hold it 0.<|endoftext|><<<" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_look_refuses_a_file_without_rows(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    done = juicer("look", str(tmp_path / "empty.jsonl"))
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == f"error: {tmp_path}/empty.jsonl: there are no rows (name a file of demonstrations)\n"


@pytest.mark.parametrize(
    ("out", "name"),
    [("model_x.yaml", "model-x"), ("a/My Recipe.v2.yaml", "my-recipe-v2"), ("_x_", "x"), ("é.yaml", "")],
)
def test_a_recipe_has_the_name_of_its_file_in_the_characters_of_names(out: str, name: str) -> None:
    assert drafting.name_of(Path(out)) == name


def test_an_unpublished_recipe_is_named_by_its_place_in_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^recipes/mine.yaml: "):
        drafting._loaded("name: mine\n", tmp_path / "mine.yaml", Path("recipes/mine.yaml"))
