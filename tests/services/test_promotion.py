"""Promotion through a real MLflow server: by evidence, all or nothing, one at a time, and what is promoted answers."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from transformers import AutoModelForCausalLM, AutoTokenizer

from juicer.registry.aliases import Aliases
from juicer.registry.evaluate_version import check_up_to_date, evaluate
from juicer.registry.figures import FIGURES, as_tag, figures_of
from juicer.registry.gates import BENCHMARKS
from juicer.registry.promote import Decision, promote, roll_back
from juicer.registry.versions import open_registry
from juicer.runtime.errors import InputError
from juicer.stages.hashes import md5_of
from tests.servers import MlflowServer, end, free_port, start
from tests.shared import copied
from tests.small_pipeline import ROOT, register

# MLflow's own functions have such a hint; importing the module that serves them says so.
pytestmark = pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType")
KILLED_MOVER = """
import os, signal, sys
from mlflow import MlflowClient
from juicer.registry.aliases import Aliases

uri, champion, previous = sys.argv[1:]
move = MlflowClient.set_registered_model_alias

def dying(self, name, alias, version):
    if alias == "champion":
        os.kill(os.getpid(), signal.SIGKILL)
    move(self, name, alias, version)

MlflowClient.set_registered_model_alias = dying
aliases = Aliases(MlflowClient(uri), "quickstart")
with aliases.locked():
    aliases.move({"champion": champion, "previous": previous}, [previous])
"""
GATES = ROOT / "mlflow/promotion.yaml"
SFT, FIRST, SECOND = "1", "2", "3"


@pytest.fixture(scope="module")
def project(small_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project with three registered versions, as the working directory."""
    folder = copied(small_pipeline, tmp_path_factory.mktemp("project"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def server(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """The server that they are registered with."""
    server = MlflowServer(tmp_path_factory.mktemp("mlflow"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", server.uri)
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        register(project)
        yield server
    server.kill()


@pytest.fixture
def client(server: MlflowServer) -> MlflowClient:
    """A client of the server, before anything was promoted."""
    client = MlflowClient(server.uri)
    for alias in ("champion", "previous"):
        client.delete_registered_model_alias("quickstart", alias)
    return client


def promoted(number: str, gates: Path = GATES, **options: Any) -> Decision:
    with open_registry(os.environ["MLFLOW_TRACKING_URI"]) as registry:
        return promote(registry, registry.find(f"models:/quickstart/{number}"), gates, **options)


def rolled_back() -> Decision:
    with open_registry(os.environ["MLFLOW_TRACKING_URI"]) as registry:
        return roll_back(registry, "quickstart")


def places(client: MlflowClient) -> dict[str, str]:
    aliases = client.get_registered_model("quickstart").aliases
    return {alias: version for alias, version in aliases.items() if alias in ("champion", "previous")}


def audits(client: MlflowClient) -> list[dict[str, str]]:
    runs = client.search_runs(["1"], "tags.stage = 'promotion'", order_by=["attributes.start_time ASC"])
    return [run.data.tags for run in runs]


def test_a_dry_run_shows_every_gate_and_moves_nothing(client: MlflowClient) -> None:
    before = len(audits(client))
    decision = promoted(FIRST, dry_run=True)
    assert "passed: reward_mean better than base: 2 ± 0.1 against 0 ± 0.1: difference +2" in str(decision)
    assert "would move champion none -> 2" in str(decision)
    assert (places(client), len(audits(client))) == ({}, before)


def test_promotion_moves_both_aliases_and_a_rollback_takes_it_back(client: MlflowClient) -> None:
    promoted(SECOND)
    assert places(client) == {"champion": SECOND}
    promoted(FIRST)
    assert places(client) == {"champion": FIRST, "previous": SECOND}
    last = audits(client)[-1]
    assert (last["outcome"], last["champion_before"], last["champion_after"]) == ("moved", SECOND, FIRST)
    rolled_back()
    assert places(client) == {"champion": SECOND}
    with pytest.raises(InputError, match="no champion was there before this one"):
        rolled_back()


def test_rollbacks_go_back_step_by_step_also_where_a_version_was_champion_twice(client: MlflowClient) -> None:
    for number in (SECOND, FIRST, SECOND):
        promoted(number)
    rolled_back()
    assert places(client) == {"champion": FIRST, "previous": SECOND}
    rolled_back()
    assert places(client) == {"champion": SECOND}
    with pytest.raises(InputError, match="no champion was there before this one"):
        rolled_back()


def test_a_server_that_dies_after_champion_has_moved_has_the_decision_on_record_when_the_next_mover_has_been(
    client: MlflowClient, server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    promoted(SECOND)
    move, before = MlflowClient.set_registered_model_alias, len(audits(client))

    def dying(self: MlflowClient, name: str, alias: str, version: str) -> None:
        move(self, name, alias, version)
        if alias == "champion":
            server.kill()

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "set_registered_model_alias", dying)
        patch.setattr("juicer.registry.aliases.PAUSE", 0.01)
        with pytest.raises(InputError, match="completes it if champion had moved"):
            promoted(FIRST)
    server.start()
    Aliases(client, "quickstart").unlock()
    rolled_back()
    assert places(client) == {"champion": SECOND}
    first, second = audits(client)[before:]
    assert (first["outcome"], first["champion_before"], first["champion_after"]) == ("moved", SECOND, FIRST)
    assert (second["outcome"], second["champion_before"], second["champion_after"]) == ("moved", FIRST, SECOND)


def test_a_worse_version_is_refused_with_the_numbers_of_every_gate_that_failed(client: MlflowClient) -> None:
    promoted(FIRST)
    decision = promoted(SFT)
    assert [verdict.gate for verdict in decision.refused] == [
        "preference_accuracy better than base",
        "reward_mean not worse than the champion",
        "preference_accuracy not worse than the champion",
        "preference_gap not worse than the champion",
    ]
    assert "failed: reward_mean not worse than the champion: 1 ± 0.1 against 2 ± 0.1: difference -1" in str(decision)
    assert places(client) == {"champion": FIRST}
    assert audits(client)[-1]["outcome"] == "refused"
    assert "weights_in_mlflow" not in client.get_model_version("quickstart", SFT).tags


def test_a_version_of_uncommitted_code_is_refused_unless_the_gates_let_it_pass_and_then_its_card_says_so(
    client: MlflowClient, tmp_path: Path
) -> None:
    gates = tmp_path / "gates.yaml"
    gates.write_text(GATES.read_text().replace("committed_code: true", "committed_code: false"))
    client.set_model_version_tag("quickstart", SECOND, "git_dirty", "true")
    if "weights_in_mlflow" in client.get_model_version("quickstart", SECOND).tags:
        client.delete_model_version_tag("quickstart", SECOND, "weights_in_mlflow")  # so that its card is written anew
    try:
        refused = promoted(SECOND)
        assert [verdict.gate for verdict in refused.refused] == ["code is committed"]
        assert "models:/quickstart/3 was registered with uncommitted changes (commit it, then" in str(refused)
        assert places(client) == {}
        promoted(SECOND, gates=gates)
        tags = client.get_model_version("quickstart", SECOND).tags
        row = f"`{tags['dvc_md5']}` | `{tags['git_commit']}` with uncommitted changes |"
        assert row in client.get_model_version("quickstart", SECOND).description
    finally:
        client.set_model_version_tag("quickstart", SECOND, "git_dirty", "false")
        client.delete_model_version_tag("quickstart", SECOND, "weights_in_mlflow")
    assert places(client) == {"champion": SECOND}


def test_the_leaderboard_is_compared_with_the_base_models_newest(client: MlflowClient) -> None:
    measured = {"leaderboard_average": 62.0} | dict.fromkeys(BENCHMARKS, 62.0)
    measured |= {f"{name}_sem": 0.6 for name in BENCHMARKS}
    before = client.get_model_version("quickstart", SECOND).tags
    run = client.create_run("1", tags={"model": "base", "stage": "leaderboard"}).info.run_id
    client.log_metric(run, "leaderboard/average", 60.0)
    for name in BENCHMARKS:
        client.log_metric(run, name.replace("_", "/"), 60.0)
    client.set_terminated(run, "FINISHED")
    client.set_model_version_tag("quickstart", SECOND, FIGURES, as_tag(figures_of(before) | measured))
    try:
        gates = {verdict.gate: verdict for verdict in promoted(SECOND, dry_run=True).verdicts}
    finally:
        client.delete_run(run)
        client.set_model_version_tag("quickstart", SECOND, FIGURES, before[FIGURES])
    found = gates["leaderboard_average better than base"]
    assert found.numbers == "62 ± 0.24 against 60 ± 0.24: difference +2, noise 0.68"
    assert found.result == "passed"


def test_promoting_the_champion_changes_nothing(client: MlflowClient) -> None:
    promoted(FIRST)
    before = len(audits(client))
    assert str(promoted(FIRST)) == "promotion of quickstart 2 (irft-r1): it is the champion already"
    assert (places(client), len(audits(client))) == ({"champion": FIRST}, before)


def test_figures_of_other_prompts_are_not_compared(client: MlflowClient) -> None:
    promoted(FIRST)
    judged = client.get_model_version("quickstart", FIRST).tags["evaluated_on"]
    client.set_model_version_tag("quickstart", FIRST, "evaluated_on", "others")
    try:
        with pytest.raises(InputError, match=r"other prompts.*juicer evaluate models:/quickstart/2"):
            promoted(SECOND)
    finally:
        client.set_model_version_tag("quickstart", FIRST, "evaluated_on", judged)


def test_weights_are_uploaded_once_to_the_byte_with_a_card(
    client: MlflowClient, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    promoted(FIRST)
    client.delete_registered_model_alias("quickstart", "champion")
    uploads: list[str] = []
    monkeypatch.setattr(MlflowClient, "log_model_artifacts", lambda _, model, folder: uploads.append(model))
    promoted(FIRST)
    assert uploads == []
    folder = Path(download_artifacts("models:/quickstart@champion"))
    assert md5_of(folder / "model") == md5_of(project / "models/irft/r1")
    card = client.get_model_version("quickstart", FIRST).description
    for fact in (
        "IRFT, implicit reward learning",
        "round 1, seed 0",
        "Demonstrations: mine.",
        "| reward_mean | 2 |",
        f"| 1 | sft | `{md5_of(project / 'models/sft')}`",
        client.get_model_version("quickstart", FIRST).tags["git_commit"],
        "| passed | reward_mean better than base |",
    ):
        assert fact in card
    # MLflow keeps the card's header in a file of its own.
    assert card.endswith((folder / "model_card.md").read_text())


def test_of_two_promotions_at_once_one_wins_and_none_is_lost(client: MlflowClient, project: Path) -> None:
    before = len(audits(client))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    both = [
        subprocess.Popen(
            [sys.executable, "-m", "juicer", "promote", f"models:/quickstart/{number}", "--gates", str(GATES)],
            cwd=project,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in (FIRST, SECOND)
    ]
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    new = audits(client)[before:]
    assert [audit["outcome"] for audit in new] == ["moved", "moved"]
    first, second = new
    assert (first["champion_before"], second["champion_before"]) == ("none", first["champion_after"])
    assert places(client) == {"champion": second["version"], "previous": first["version"]}
    assert {first["version"], second["version"]} == {FIRST, SECOND}
    assert [model.name for model in client.search_registered_models()] == ["quickstart"], "the lock is gone"


def test_a_server_that_dies_in_the_middle_leaves_the_champion_and_the_next_mover_puts_the_rest_right(
    client: MlflowClient, server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    promoted(SECOND)
    promoted(FIRST)
    rolled_back()
    before = places(client)
    move = MlflowClient.set_registered_model_alias

    def dying(self: MlflowClient, name: str, alias: str, version: str) -> None:
        if alias == "champion":
            server.kill()
        move(self, name, alias, version)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "set_registered_model_alias", dying)
        patch.setattr("juicer.registry.aliases.PAUSE", 0.01)
        with pytest.raises(InputError, match="MLflow went away while the aliases moved"):
            promoted(FIRST)
    server.start()
    assert places(client)["champion"] == before["champion"] == SECOND
    # The lock of this process, which is not dead, is the one thing that a person has to remove.
    Aliases(client, "quickstart").unlock()
    with Aliases(client, "quickstart").locked():
        assert places(client) == before
    assert audits(client)[-1]["outcome"] == "not moved"
    promoted(FIRST)
    assert places(client) == {"champion": FIRST, "previous": SECOND}


def test_a_mover_that_is_killed_between_the_two_moves_is_put_right_by_who_looks_and_by_who_moves_next(
    client: MlflowClient, server: MlflowServer
) -> None:
    promoted(SECOND)
    before = places(client)
    arguments = [sys.executable, "-c", KILLED_MOVER, server.uri, FIRST, SECOND]
    done = subprocess.run(arguments, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
    assert done.returncode == -signal.SIGKILL
    assert places(client) == {"champion": SECOND, "previous": SECOND}, "one of two has moved"
    aliases = Aliases(client, "quickstart")
    assert aliases.now() == before
    with aliases.locked():
        assert places(client) == before
    promoted(FIRST)
    assert places(client) == aliases.now() == {"champion": FIRST, "previous": SECOND}


def test_evaluating_a_version_measures_it_anew_and_compares_it_with_the_champion(
    client: MlflowClient, project: Path
) -> None:
    promoted(FIRST)
    gates = project / "gates.yaml"
    gates.write_text("{better_than_base: [], not_worse_than_champion: [preference_accuracy]}")
    said: list[str] = []
    with open_registry(os.environ["MLFLOW_TRACKING_URI"]) as registry:
        before = client.get_model_version("quickstart", SECOND).tags
        found = evaluate(registry, "models/irft/r2", "quickstart", project / "scratch", said.append, gates=gates)
        after = client.get_model_version("quickstart", SECOND).tags
        registry.tag(registry.find(f"models:/quickstart/{SECOND}"), before)
    assert found.name == f"models:/quickstart/{SECOND}", "a folder with the weights of a version is that version"
    assert any("ended" in text for text in said)
    assert (figures_of(before)["prompts"], figures_of(after)["prompts"]) == (100, 4)
    assert figures_of(after)["pairs"] == 3, "preferences are shares of the prompts that have a rejected response"
    code, gate = found.verdicts
    assert code.gate == "code is committed"
    assert gate.gate == "preference_accuracy not worse than the champion"
    assert gate.result == "failed" and "3 pairs" in gate.numbers, "too few to tell"
    assert gate.numbers.split(" against ")[1].startswith("0.8")
    assert f"| preference_accuracy | {found.figures['preference_accuracy']:.6g} | 0.8 |" in found.as_markdown()
    run = client.search_runs(["1"], "tags.stage = 'evaluate' AND tags.version = '3'")[0]
    assert run.data.metrics["held_out/prompts"] == 4


def test_figures_that_are_there_are_not_measured_again_unless_asked(client: MlflowClient, project: Path) -> None:
    promoted(FIRST)
    with open_registry(os.environ["MLFLOW_TRACKING_URI"]) as registry:
        found = evaluate(
            registry, "models:/quickstart@champion", "quickstart", project, print, gates=GATES, again=False
        )
    assert found.line == "models:/quickstart/2 (it is the champion): passes every gate"


def test_an_evaluation_on_other_parameters_than_those_of_the_pipeline_is_refused(project: Path) -> None:
    params = project / "params.yaml"
    text = params.read_text()
    params.write_text(text.replace("seed: 0", "seed: 1"))
    try:
        with pytest.raises(InputError, match=r"these differ from dvc\.lock: seed \(bring the project up to date"):
            check_up_to_date()
    finally:
        params.write_text(text)


@pytest.mark.parametrize("path", ["data/curated", "models/world", "models/sft", "evaluation/models/base.json"])
def test_an_evaluation_by_other_data_models_or_figures_than_those_of_the_pipeline_is_refused(
    project: Path, path: str
) -> None:
    check_up_to_date()
    kept = project / "kept"
    (project / path).rename(kept)
    try:
        with pytest.raises(InputError, match=rf"these differ from dvc\.lock: {path} \(bring the project up to date"):
            check_up_to_date()
        if kept.is_dir():
            shutil.copytree(kept, project / path)
            (project / path / "added").write_text("")
        else:
            (project / path).write_text("{}")
        with pytest.raises(InputError, match=rf"these differ from dvc\.lock: {path} \(bring the project up to date"):
            check_up_to_date()
    finally:
        shutil.rmtree(project / path) if kept.is_dir() else (project / path).unlink()
        kept.rename(project / path)


@pytest.mark.slow
def test_the_champion_answers_a_question_through_mlflows_own_server(client: MlflowClient, tmp_path: Path) -> None:
    promoted(FIRST)
    port = free_port()
    command = ["mlflow", "models", "serve", "--model-uri", "models:/quickstart@champion", "--env-manager", "local"]
    address = f"http://127.0.0.1:{port}"
    # From another folder: nothing of this repository is in reach.
    process = start([*command, "--host", "127.0.0.1", "--port", str(port)], tmp_path, f"{address}/ping")
    try:
        question = {"messages": [{"role": "user", "content": "How do I fly a kite?"}], "max_tokens": 8}
        answer = httpx.post(f"{address}/invocations", json=question, timeout=60).json()
    finally:
        end(process)
    message = answer[0]["choices"][0]["message"]
    assert message["role"] == "assistant"
    assert 1 <= answer[0]["usage"]["completion_tokens"] <= 8


def test_the_champion_is_an_ordinary_folder_for_transformers(client: MlflowClient) -> None:
    promoted(FIRST)
    folder = Path(download_artifacts("models:/quickstart@champion")) / "model"
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    question = [{"role": "user", "content": "How do I fly a kite?"}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**prompt, max_new_tokens=4)
    assert answer.shape[1] > prompt["input_ids"].shape[1]
