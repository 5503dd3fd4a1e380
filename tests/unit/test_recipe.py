"""A recipe is validated before any work starts, and the graph of rounds is derived from it, never typed."""

from pathlib import Path
from typing import get_args

import pytest
from ruamel.yaml import YAML

from juicer.recipe.activation import PLACES, activate, dump, load
from juicer.recipe.checks import validate
from juicer.recipe.graph import ABSENT
from juicer.recipe.schema import Recipe
from juicer.runtime.errors import InputError
from juicer.settings.base import _model_in
from juicer.settings.preferences import FOLDERS
from juicer.settings.text import _place
from tests.fetching import written
from tests.stub_models import BEAVER, write_stub

QUICKSTART = Path(__file__).parents[2] / "recipes" / "quickstart.yaml"
ROW = {"prompt": "Is it raining?", "response": "No."}
COMMIT = "abcdef0123" * 4


def params_of(*overrides):
    return YAML(typ="safe").load(dump(*load(QUICKSTART, list(overrides))))


def refused(params):
    with pytest.raises(InputError) as error:
        validate(params, "params.yaml")
    return str(error.value)


def test_a_written_recipe_is_valid_and_spells_out_every_parameter():
    params = params_of()
    assert validate(params, "params.yaml").name == "quickstart"
    assert params["irft"]["training"]["reference"] == "round"


def test_rounds_form_a_chain_from_the_sft_policy():
    graph = params_of("irft.rounds=3", "rft.rounds=2")["graph"]
    assert [item["previous"] for item in graph["irft"].values()] == ["models/sft", "models/irft/r1", "models/irft/r2"]
    assert [item["reward"] for item in graph["rft"].values()] == ["models/sft", "models/rft/r1/reward"]
    assert list(graph["models"]) == ["base", "sft", "sft-matched", "irft-r1", "irft-r2", "irft-r3", "rft-r1", "rft-r2"]


def test_raising_t_leaves_the_earlier_rounds_as_they_are():
    few, many = params_of("irft.rounds=2")["graph"]["irft"], params_of("irft.rounds=4")["graph"]["irft"]
    assert {key: many[key] for key in few} == few


@pytest.mark.parametrize("method", ["irft", "rft"])
@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["slice=split", "rounds=3"], ["1/3", "2/3", "3/3"]),
        (["slice=split", "rounds=1"], ["1/1"]),
        (["slice=all", "rounds=2"], ["all", "all"]),
        (["slice=split", "rounds=4", "passes=2"], ["1/2", "2/2", "1/2", "2/2"]),
    ],
)
def test_split_slices_name_their_share_of_the_data(method, overrides, parts):
    if method == "rft":
        overrides = [each for each in overrides if not each.startswith("passes")]
        parts = parts if len(parts) != 4 else ["1/4", "2/4", "3/4", "4/4"]
    graph = params_of(*(f"{method}.{each}" for each in overrides))["graph"]
    assert [item["part"] for item in graph[method].values()] == parts


def test_the_control_is_given_the_last_round_of_each_method():
    graph = params_of("irft.rounds=3", "rft.rounds=2")["graph"]
    assert graph["sft_matched"]["control"] == {"irft": "models/irft/r3", "rft": "models/rft/r2/policy"}


@pytest.mark.parametrize("off", ["irft", "rft"])
def test_either_method_can_be_switched_off(off):
    graph = params_of(f"{off}.rounds=0")["graph"]
    assert graph[off] == {}
    assert not any(name.startswith(f"{off}-") for name in graph["models"])
    assert graph["sft_matched"]["control"][off] == ABSENT


def test_without_methods_there_is_nothing_to_match():
    graph = params_of("irft.rounds=0", "rft.rounds=0")["graph"]
    assert graph["sft_matched"] == {}
    assert graph["table"] == "evaluation/tables/sft.json"


@pytest.mark.parametrize("budget", ["steps", "response_tokens"])
def test_without_methods_a_budget_makes_the_control(budget):
    none = ["irft.rounds=0", "rft.rounds=0", f"sft_matched.{budget}=100"]
    graph = params_of(*none)["graph"]
    assert graph["sft_matched"]["control"] == {"irft": ABSENT, "rft": ABSENT}
    assert list(graph["models"]) == ["base", "sft", "sft-matched"]
    assert params_of(*none, "sft_matched.enabled=false")["graph"]["sft_matched"] == {}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["sft.objective=dft"], "'sft': lora.dropout must be 0: the objective dft compares pi with itself"),
        (["sft.objective=gem"], "'sft': lora.dropout must be 0: only the objective nll trains with dropout"),
        (["sft_matched.objective=dft"], "sft_matched.objective: sft.lora.dropout must be 0: the objective dft"),
        (["sft_matched.objective=gem"], "sft_matched.objective: sft.lora.dropout must be 0: only the objective nll"),
    ],
)
def test_objectives_that_train_without_dropout_refuse_adapters_with_it(overrides, message):
    lora = ["sft.lora={r: 4, dropout: 0.1}"]
    with pytest.raises(InputError) as error:
        load(QUICKSTART, [*lora, *overrides])
    assert message in str(error.value)
    assert load(QUICKSTART, [*overrides, "sft.lora={r: 4}"])
    assert load(QUICKSTART, [*lora, "sft_matched.objective=nll"])
    assert load(QUICKSTART, [*lora, "sft_matched.objective=dft", "sft_matched.enabled=false"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sft.objective=sft", "'nll', 'gem' or 'dft', not 'sft'"),
        ("sft.dft.moving_average=0", "'sft.dft.moving_average': input should be greater than 0"),
        ("sft_matched.steps=0", "'sft_matched.steps': input should be greater than or equal to 1"),
        ("irtf.rounds=2", "unknown parameter 'irtf' (did you mean 'irft'?)"),
        ("regster.model_name=x", "unknown parameter 'regster' (did you mean 'register'?)"),
        ("register.modl_name=x", "unknown parameter 'register.modl_name' (did you mean 'model_name'?)"),
        ("irft.training.bta=2", "unknown parameter 'irft.training.bta' (did you mean 'beta'?)"),
        ("rft.policy.optimiser.lr=2", "unknown parameter 'rft.policy.optimiser.lr'"),
        ("irft.rounds=-1", "parameter 'irft.rounds': input should be greater than or equal to 0, not -1"),
        ("irft.rounds=two", "parameter 'irft.rounds': it has to be a number of rounds, or auto, not 'two'"),
        ("rft.policy.kl_coefficient=.inf", "parameter 'rft.policy.kl_coefficient': input should be a finite number"),
        ("sft_matched.learning_rates=[1e-4, .nan]", "'sft_matched.learning_rates.1': input should be a finite number"),
        ("sft_matched.learning_rates=[0]", "'sft_matched.learning_rates.0': input should be greater than 0, not 0"),
        ("pretrain.policy.hidden_size=98", "'pretrain.policy': hidden_size = 98 is not a multiple of heads = 4"),
        ("pretrain.scorer.heads=64", "'pretrain.scorer': hidden_size = 64 is not an even multiple of heads = 64"),
        ("curate.validation_share=0", "'curate.validation_share': input should be greater than 0"),
        ("curate.held_out_share=0", "curate.held_out_share is 0, so that no held-out prompts are left"),
        ("irft.training.objective=cubic", "'logistic', 'identity', 'space'"),
        ("irft.training.h=identity", "'irft.training': h is now called objective"),
        ("irft.training={objective: space, reference: initial}", "compares with the policy that sampled"),
        ("irft.training={objective: brier, contrast: best}", "contrast is best, which selects; set contrast to mean"),
        ("sft=null", "parameter 'sft'"),
        ("scorer.model=null", "scorer.model is not set"),
        ("world=null", "the section world is missing"),
        ("compute.processes=3", "sft.batch_size = 32 is not a multiple of compute.processes = 3"),
        ("sft.micro_batch_size=12", "not a multiple of compute.processes * sft.micro_batch_size = 12"),
        ("compute.zero_stage=1", "parameter 'compute.zero_stage': input should be 0, 2 or 3"),
        ("fetch.source=missing.jsonl", "missing.jsonl: no such file or folder"),
        ("template.max_prompt_tokens=4000", "exceeds pretrain.policy.context"),
        ("policy.model=EleutherAI/pythia-1b", "needs a pinned revision"),
        ("policy.model=./nope", "policy.model: no such folder: ./nope"),
        ("policy.model=models/foo/bar", "policy.model: no such folder: models/foo/bar"),
        ("scorer.model=/nope", "scorer.model: no such folder: /nope"),
        ("rft.reward.model=../nope", "rft.reward.model: no such folder: ../nope"),
        ("policy.model=./my model", "policy.model: no such folder: ./my model"),
        ("fetch.source=org/dataset", "a dataset of the hub needs a revision"),
        ("fetch.revision=main", "parameter 'fetch.revision': revision 'main' is not a commit, so it can move"),
        ("policy.revision=main; touch x", "parameter 'policy.revision': revision 'main; touch x' is not a commit"),
        ("fetch.source=data/foo/bar", "data/foo/bar: no such file or folder"),
        ("fetch.source=~/nope.jsonl", "/nope.jsonl"),
        ("pretrain.corpus=nope", "pretrain.corpus: no such file or folder: nope"),
        ("irft.rounds", "is not an override (write key=value)"),
        ("name.first=x", "'name' in 'name.first' is not a section"),
        ("seed=[1", "command line: the value of 'seed': invalid YAML"),
    ],
)
def test_wrong_overrides_are_refused_in_one_line(override, message):
    with pytest.raises(InputError) as error:
        load(QUICKSTART, [override])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_another_source_leaves_the_world_out(tmp_path):
    written(tmp_path / "mine.jsonl", [ROW])
    params = params_of(f"fetch.source={tmp_path / 'mine.jsonl'}")
    assert params["world"] is None
    params["world"] = params_of()["world"]
    assert "the section world applies only to fetch.source: world" in refused(params)


def test_a_graph_that_is_not_a_chain_is_refused():
    params = params_of()
    params["graph"]["irft"]["r2"]["previous"] = "models/sft"
    assert "rounds are not a chain: graph.irft.r2.previous" in refused(params)


def test_rounds_raised_without_deriving_the_graph_are_refused():
    params = params_of("irft.rounds=3")
    params["irft"]["rounds"] = 4
    assert "does not follow from the recipe" in refused(params)


def test_a_change_that_stayed_behind_is_told_with_the_command_that_takes_it_back(monkeypatch):
    params = params_of()
    params["irft"]["rounds"] = 4
    monkeypatch.chdir(QUICKSTART.parents[1])
    told = refused(params)
    assert "params.yaml was changed by hand" in told
    assert "take the change back: juicer use --undo; or derive the graph from it: juicer use params.yaml" in told
    assert "juicer exp run -S KEY=VALUE" in told


def test_params_without_a_graph_are_refused():
    params = params_of()
    del params["graph"]
    assert "the graph of rounds is missing" in refused(params)


def test_hub_models_become_downloads_at_their_revision():
    params = params_of("policy.model=EleutherAI/pythia-1.4b", f"policy.revision={COMMIT}")
    assert params["graph"]["downloads"]["policy"] == {"model": "EleutherAI/pythia-1.4b", "revision": COMMIT}
    assert params["graph"]["base"] == "models/hub/policy"


def test_a_path_from_home_is_written_out(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    written(tmp_path / "x.jsonl", [ROW])
    write_stub(tmp_path / "modèle")
    params = params_of("fetch.source=~/x.jsonl", "policy.model=~/modèle")
    assert params["fetch"]["source"] == params["graph"]["sources"]["source"] == str(tmp_path / "x.jsonl")
    assert params["graph"]["base"] == str(tmp_path / "modèle")


@pytest.mark.parametrize("path", PLACES)
def test_every_place_of_a_recipe_is_written_out_from_home(path, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    needed = []
    if path in ("fetch.source", "preferences.source"):
        written(tmp_path / "x" / "rows.jsonl", [ROW])
    elif path == "pairwise.rubric":
        (tmp_path / "x").write_text("Shorter is better.")
    else:
        write_stub(tmp_path / "x", BEAVER if path in ("scorer.model", "judge.model") else None)
    if path.startswith("preferences."):
        needed = [
            f"{key}={value}"
            for role in ("scorer", "judge")
            for key, value in {
                f"preferences.{role}.share": 0.2,
                f"{role}.kind": "sequence-classification",
                f"{role}.model": FOLDERS[role],
            }.items()
        ]
    elif path == "judge.model":
        needed = ["judge.kind=beaver"]
    elif path.startswith("pairwise."):
        needed = (
            ["pairwise.kind=model"] if path == "pairwise.model" else ["pairwise.kind=command", "pairwise.command=[x]"]
        )
    params = params_of(f"{path}=~/x", "leaderboard.enabled=true", "rft.rounds=1", *needed)
    section, *keys = path.split(".")
    value = params[section]
    for key in keys:
        value = value[key]
    assert value == str(tmp_path / "x")


def test_every_place_is_known():
    def places(model, path=()):
        for name, field in model.model_fields.items():
            here = (*path, name)
            if inner := _model_in(field.annotation):
                yield from places(inner, here)
            elif _place in [getattr(each, "func", None) for each in (*field.metadata, *_metadata_in(field.annotation))]:
                yield ".".join(here)

    assert sorted(place.removesuffix(".path") for place in places(Recipe)) == sorted(PLACES)


def _metadata_in(annotation):
    return [each for part in get_args(annotation) for each in getattr(part, "__metadata__", ())]


def test_dropout_on_irft_s_adapters_is_refused_because_it_would_not_act():
    assert params_of("irft.training.lora={r: 4}", "sft.lora={r: 4, dropout: 0.1}")["irft"]["training"]["lora"]["r"] == 4
    with pytest.raises(InputError, match=r"'irft.training.lora': dropout must be 0: the objective compares pi with"):
        params_of("irft.training.lora={r: 4, dropout: 0.1}")


def test_a_model_that_is_not_used_needs_no_folder():
    overrides = ["scorer.kind=none", "scorer.model=./nope", "rft.rounds=0", "rft.reward.model=./nope"]
    assert params_of(*overrides)["graph"]["scorer"] == ABSENT


def test_a_dataset_of_the_hub_is_accepted_at_its_revision():
    for source in ("org/dataset", "imdb"):
        graph = params_of(f"fetch.source={source}", f"fetch.revision={COMMIT}")["graph"]
        assert set(graph["sources"].values()) == {ABSENT}


def test_an_active_recipe_is_not_written_again(tmp_path):
    params = tmp_path / "params.yaml"
    assert "written" in activate(QUICKSTART, [], params)
    before = params.stat().st_mtime_ns
    assert "up to date" in activate(QUICKSTART, [], params)
    assert params.stat().st_mtime_ns == before


def test_the_committed_parameters_are_the_quickstarts():
    root = QUICKSTART.parents[1]
    assert (root / "params.yaml").read_text() == dump(*load(QUICKSTART, [])), "run: juicer use quickstart"


def test_a_refused_recipe_leaves_the_active_one_untouched(tmp_path):
    params = tmp_path / "params.yaml"
    activate(QUICKSTART, [], params)
    before = params.read_bytes()
    with pytest.raises(InputError):
        activate(QUICKSTART, ["irft.rouds=2"], params)
    assert params.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"params.yaml", ".juicer"}


def test_ppo_is_refused_where_trl_has_none_before_any_work_but_not_in_a_plan(monkeypatch):
    params = params_of("rft.optimiser=ppo")
    monkeypatch.setattr("importlib.metadata.version", lambda name: {"trl": "1.16.0"}[name])
    with pytest.raises(InputError, match=r"TRL 1\.16\.0 does not have \(.*constraints-ppo\.txt"):
        validate(params, "params.yaml")
    monkeypatch.setattr("importlib.metadata.version", lambda name: {"trl": "1.12.0"}[name])
    assert validate(params, "params.yaml").rft.optimiser == "ppo"


def test_ppo_runs_in_one_process_only():
    with pytest.raises(InputError, match="'ppo' runs in a single process"):
        load(QUICKSTART, ["rft.optimiser=ppo", "compute.processes=2"])


def test_other_objectives_refuse_sharded_weights():
    sharded = ["compute.processes=2", "compute.zero_stage=3"]
    for key in ("sft.objective", "sft_matched.objective"):
        with pytest.raises(InputError, match=f"{key} 'gem' is not supported with compute.zero_stage"):
            load(QUICKSTART, [*sharded, f"{key}=gem"])
    assert load(QUICKSTART, sharded)
