"""The stage pretrain: tiny models in the real models' formats, the same bytes for the same seed."""

import contextlib
import hashlib
import json
import subprocess
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from juicer.data.demonstrations import Demonstration, Message
from juicer.quickstart.pretraining import Preference, batches_by_length, steps_of, train_policy, train_scorer
from juicer.quickstart.world import documents, pairs
from juicer.recipe.activation import activate as make_active
from juicer.runtime.errors import InputError
from juicer.scorers.beaver import BeaverModel, BeaverScorer
from juicer.settings.compute import ComputeSettings
from juicer.settings.data import CurateSettings, ScorerSettings, TemplateSettings
from juicer.settings.world import PretrainSettings, TinyPolicySettings, TinyScorerSettings
from juicer.sources.curation import split_of
from tasks.pretrain import corpus_of
from tests import python

ROOT = Path(__file__).resolve().parents[2]
ALL = CurateSettings(validation_share=1e-9, held_out_share=0)
SIDES = {"chosen": "yes", "rejected": "no"}
SMALL = [
    "pretrain.policy={hidden_size: 16, layers: 1, heads: 2, documents: 300, batch_size: 50, vocabulary: 400}",
    "pretrain.scorer={hidden_size: 16, layers: 1, heads: 2, pairs: 100, batch_size: 50}",
]


def run(folder: Path, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return python.run(folder, module, *arguments, environment=python.environment(ROOT), check=False)


def activate(folder: Path, *overrides: str) -> None:
    with contextlib.chdir(folder):
        make_active(ROOT / "recipes/quickstart.yaml", [*SMALL, *overrides], Path("params.yaml"))


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The same very small models, made twice by processes of their own."""
    folder = tmp_path_factory.mktemp("pretrain")
    activate(folder)
    made = [folder / "first", folder / "second"]
    for out in made:
        done = run(folder, "tasks.pretrain", "--out", str(out))
        assert done.returncode == 0, done.stderr
    return made


def test_the_same_seed_gives_the_same_bytes(worlds: list[Path]):
    first, second = map(digests, worlds)
    assert first == second
    assert {"policy/model.safetensors", "policy/tokenizer.json", "scorer/model.safetensors"} <= first.keys()


def test_another_seed_gives_another_model():
    settings = TinyPolicySettings(hidden_size=16, layers=1, heads=2, vocabulary=300)
    rows, compute = list(documents(100, 0)), ComputeSettings(device="cpu")
    one, other, again = (train_policy(rows, settings, TemplateSettings(), compute, seed)[0] for seed in (0, 1, 0))
    weights, different, same = (model.gpt_neox.layers[0].mlp.dense_h_to_4h.weight for model in (one, other, again))
    assert torch.equal(weights, same)
    assert not torch.equal(weights, different)


def test_plain_transformers_loads_the_policy(worlds: list[Path]):
    policy = AutoModelForCausalLM.from_pretrained(worlds[0] / "policy")
    tokenizer = AutoTokenizer.from_pretrained(worlds[0] / "policy")
    assert policy.config.model_type == "gpt_neox"
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|endoftext|>", "<|padding|>")
    assert policy.generation_config.eos_token_id == tokenizer.eos_token_id != tokenizer.pad_token_id
    messages = [{"role": "user", "content": "How do I fly a kite?"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "\n\nHuman: How do I fly a kite?\n\nAssistant:"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert torch.isfinite(policy(**tokenizer(text, return_tensors="pt")).logits).all()


def test_beaver_s_loader_loads_the_scorer(worlds: list[Path]):
    folder = worlds[0] / "scorer"
    scorer = BeaverScorer.load(folder, ScorerSettings(kind="beaver"), ComputeSettings(device="cpu"))
    prompt: list[Message] = [{"role": "user", "content": "How do I fly a kite?"}]
    assert len(set(scorer.score([(prompt, "Read a book."), (prompt, "Happy to help.")]))) == 2
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LlamaForScore"]
    assert (config["score_bias"], config["do_normalize"]) == (True, False)
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        assert {"score_head.weight", "score_head.bias", "normalizer.mean"} <= set(file.keys())


def test_a_local_corpus_is_trained_on_without_its_held_out_file(tmp_path: Path):
    def line(content: str, answer: str, worse: str) -> str:
        start = f"\n\nHuman: {content}\n\nAssistant: "
        return json.dumps({"chosen": start + answer, "rejected": start + worse}) + "\n"

    (tmp_path / "train.jsonl").write_text("".join(line(f"question {i}", "A good answer.", "no") for i in range(30)))
    (tmp_path / "test.jsonl").write_text(line("question 31", "An unseen answer.", "no"))
    dialogues, preferences = corpus_of(PretrainSettings(corpus=str(tmp_path)), 0, ALL)
    assert len(dialogues) == 60
    assert Counter(response for _, response in dialogues) == {"A good answer.": 30, "no": 30}
    assert {(row.better, row.worse) for row in preferences} == {("A good answer.", "no")}
    few = PretrainSettings(corpus=str(tmp_path), scorer=TinyScorerSettings(pairs=50))
    assert len(corpus_of(few, 0, ALL)[1]) == 30


def test_a_corpus_is_trained_on_without_the_prompts_that_curate_chooses_or_reports_on(tmp_path: Path):
    rows = [Demonstration.make([{"role": "user", "content": f"question {i}"}], "yes", rejected="no") for i in range(60)]
    start = "\n\nHuman: {}\n\nAssistant: "
    lines = [{name: start.format(row.prompt[0]["content"]) + text for name, text in SIDES.items()} for row in rows]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "test.jsonl").write_text(json.dumps(lines[0]) + "\n")
    shares = CurateSettings(validation_share=0.3, held_out_share=0.2)
    dialogues, preferences = corpus_of(PretrainSettings(corpus=str(tmp_path)), 0, shares)
    expected = {row.prompt[0]["content"] for row in rows[1:] if split_of(row.prompt_hash(), shares, False) == "train"}
    assert 10 < len(expected) < 50
    assert {prompt[0]["content"] for prompt, _ in dialogues} == expected
    assert {row.prompt[0]["content"] for row in preferences} == expected


def test_a_corpus_without_rejected_responses_is_one_clear_line_and_publishes_nothing(tmp_path: Path):
    (tmp_path / "mine.jsonl").write_text(json.dumps({"prompt": "Hello?", "response": "Yes?"}) + "\n")
    activate(tmp_path, "pretrain.corpus=mine.jsonl")
    done = run(tmp_path, "tasks.pretrain", "--out", "models/world")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "mine.jsonl: no row to train on has a rejected response" in done.stderr
    assert not (tmp_path / "models/world").exists()


def test_a_loss_that_is_no_number_stops_the_training_and_names_the_step():
    settings = TinyPolicySettings(hidden_size=16, layers=1, heads=2, vocabulary=300, learning_rate=1e30)
    with pytest.raises(InputError, match=r"the loss is \S+ at step \d+ of 4"):
        train_policy(list(documents(100, 0)), settings, TemplateSettings(), ComputeSettings(device="cpu"), 0)


def test_the_scorer_learns_to_prefer_the_better_response():
    settings = TinyScorerSettings(hidden_size=32, layers=1, heads=2, learning_rate=5e-3, batch_size=25)
    train = [Preference(*pair) for pair in pairs(500, 0)]
    model, tokenizer = train_scorer(train, settings, TinyPolicySettings(), ComputeSettings(device="cpu"), 0)
    assert isinstance(model, BeaverModel)
    scorer = BeaverScorer(model, tokenizer, ScorerSettings(kind="beaver"))
    test = list(pairs(200, 1))
    better = scorer.score([(prompt, response) for prompt, response, _ in test])
    worse = scorer.score([(prompt, response) for prompt, _, response in test])
    right = [a > b for a, b in zip(better, worse, strict=True)]
    assert sum(right) / len(right) > 0.75


def test_batches_hold_every_row_once_per_epoch_and_rows_of_similar_length():
    lengths = [7 * i % 100 for i in range(1000)]
    batches = batches_by_length(lengths, 10, 2.0, seed=0)
    assert len(batches) == steps_of(1000, 10, 2.0) == 200
    assert sorted(row for batch in batches for row in batch) == sorted([*range(1000), *range(1000)])
    spread = [max(lengths[row] for row in batch) - min(lengths[row] for row in batch) for batch in batches]
    assert sum(spread) / len(spread) < 10
    assert batches != batches_by_length(lengths, 10, 2.0, seed=1)
