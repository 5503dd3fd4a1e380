"""The data stages on real files: fetch, then curate, and what they do with input that cannot be used."""

import copy
import gzip
import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, PreTrainedTokenizerFast

from juicer import scorers
from juicer.data import demonstrations
from juicer.data.demonstrations import Demonstration, Message, hash_of, opening_hash, read
from juicer.data.hh import CHAT_TEMPLATE as HH_TEMPLATE
from juicer.models.digest import weights_digest
from juicer.models.loading import load_template
from juicer.recipe.activation import dump, load
from juicer.scorers.beaver import BeaverModel, BeaverScorer
from juicer.scorers.encoding import Row
from juicer.settings.compute import ComputeSettings
from juicer.settings.data import CurateSettings, ScorerSettings, TemplateSettings
from juicer.sources.curation import split_of
from juicer.sources.lengths import LengthSummary, Limits
from tasks import curate, download, fetch
from tests import python
from tests.chat_tokenizers import gemma

ROOT = Path(__file__).resolve().parents[2]
HH = ROOT.parent / "shared" / "data" / "hh-harmless"
END = "<|endoftext|>"
OVERRIDES = ("template.max_prompt_tokens=40", "template.max_response_tokens=30", "scorer.batch_size=8")
STAGES: dict[str, Any] = {"fetch": fetch, "curate": curate, "download": download}


def hh(prompt: str, chosen: str, rejected: str = "no", rejected_prompt: str | None = None) -> dict[str, str]:
    other = prompt if rejected_prompt is None else rejected_prompt
    return {
        "chosen": f"\n\nHuman: {prompt}\n\nAssistant: {chosen}",
        "rejected": f"\n\nHuman: {other}\n\nAssistant: {rejected}",
    }


ROWS = [hh(f"question {number}", f"answer {number * 7 % 100}", f"bad {number}") for number in range(100)]


def text_of(rows: list[dict[str, str]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=[END], initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator((row["chosen"] for row in ROWS), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token=END)


@pytest.fixture
def folder(tmp_path: Path, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a policy's tokenizer and a random scorer in beaver's format."""
    monkeypatch.chdir(tmp_path)
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "TOKENIZERS_PARALLELISM"):
        monkeypatch.setenv(name, os.environ[name])  # restored after stages that set them in this process
    tokenizer.save_pretrained(tmp_path / "policy")
    (tmp_path / "policy" / "config.json").write_text('{"model_type": "gpt_neox", "max_position_embeddings": 400}')
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=1024,
        pad_token_id=0,
        initializer_range=0.5,
    )
    BeaverModel.create(config).save(tmp_path / "scorer")
    tokenizer.save_pretrained(tmp_path / "scorer")
    return tmp_path


def params(*overrides: str) -> None:
    """Write params.yaml: the quickstart with `overrides`."""
    text = dump(*load(ROOT / "recipes" / "quickstart.yaml", [*OVERRIDES, *overrides]))
    Path("params.yaml").write_text(text, encoding="utf-8")


def arguments_of(stage: str) -> list[str]:
    if stage == "fetch":
        return ["--out", "raw"]
    return ["--raw", "raw", "--policy", "policy", "--scorer", "scorer", "--out", "curated"]


def ran(stage: str) -> subprocess.CompletedProcess[str]:
    """Run a stage as DVC does, as a process of its own."""
    arguments, environment = arguments_of(stage), python.environment(ROOT)
    return python.run(Path.cwd(), f"tasks.{stage}", *arguments, environment=environment, check=False)


def refused(stage: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *given: str) -> str:
    """Run a stage in this process (importing torch again takes seconds); the one line that it leaves with."""
    monkeypatch.setattr(sys, "argv", [stage, *(given or arguments_of(stage))])
    module = STAGES[stage]
    with pytest.raises(SystemExit) as left:
        module.main(module.run, module.arguments, module.__doc__)
    assert left.value.code == 1
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0].removeprefix("error: ")


def fetched(monkeypatch: pytest.MonkeyPatch, rows: list[dict[str, str]], *overrides: str) -> None:
    """Run fetch on `rows`, with params.yaml for curate too."""
    Path("rows.jsonl").write_text(text_of(rows), encoding="utf-8")
    params("fetch.source=rows.jsonl", *overrides)
    run_here("fetch", monkeypatch)


def run_here(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [stage, *arguments_of(stage)])
    module = STAGES[stage]
    with pytest.raises(SystemExit) as left:
        module.main(module.run, module.arguments, module.__doc__)
    assert left.value.code == 0


def curated() -> tuple[dict[str, list[Demonstration]], dict[str, Any]]:
    splits = {name: list(read(Path(f"curated/{name}.jsonl"))) for name in ("train", "validation", "held_out")}
    return splits, json.loads(Path("curated/curation.json").read_text())


def test_fetch_writes_demonstrations_and_where_they_came_from(folder: Path) -> None:
    source = folder / "data"
    source.mkdir()
    bad = hh("a", "b", rejected_prompt="c")
    (source / "test.jsonl").write_text(text_of(ROWS[:10]))
    (source / "train.jsonl.gz").write_bytes(gzip.compress(text_of([*ROWS[10:60], bad, *ROWS[60:]]).encode()))
    params("fetch.source=data", "fetch.licence=MIT")
    done = ran("fetch")
    assert done.returncode == 0, done.stderr
    assert done.stderr == (
        "warning: left out 1 row: the better and the worse response have different prompts: data/train.jsonl.gz:51\n"
    )
    rows = list(read(folder / "raw" / "demonstrations.jsonl"))
    assert [row.held_out for row in rows] == [True] * 10 + [False] * 90
    assert (rows[0].response, rows[0].rejected) == ("answer 0", "bad 0")
    provenance = json.loads((folder / "raw" / "provenance.json").read_text())
    assert (provenance["source"], provenance["licence"], provenance["format"]) == ("data", "MIT", "hh")
    assert provenance["rows"] == {"read": 101, "kept": 100, "held_out": 10, "left_out": 1}
    assert provenance["left_out"]["different_prompts"]["places"] == ["data/train.jsonl.gz:51"]
    (source_read,) = provenance["sources"]
    assert [(file["name"], file["rows"]) for file in source_read["files"]] == [
        ("test.jsonl", 10),
        ("train.jsonl.gz", 91),
    ]
    md5 = hashlib.md5((source / "train.jsonl.gz").read_bytes()).hexdigest()
    assert source_read["files"][1]["md5"] == md5
    output = (folder / "raw" / "demonstrations.jsonl").read_bytes()
    assert provenance["output"]["md5"] == hashlib.md5(output).hexdigest()


def test_fetch_counts_the_rows_whose_worse_response_is_empty(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched(monkeypatch, [*ROWS, hh("question", "answer", "")])
    provenance = json.loads((folder / "raw" / "provenance.json").read_text())
    expected = {"read": 101, "kept": 101, "held_out": 0, "left_out": 0, "empty_rejected_response": 1}
    assert provenance["rows"] == expected


def test_fetch_of_the_world_is_the_same_each_time(folder: Path) -> None:
    params("world.rows=200")
    written = []
    for _ in range(2):
        assert ran("fetch").returncode == 0
        written.append([(folder / "raw" / name).read_bytes() for name in ("demonstrations.jsonl", "provenance.json")])
    assert written[0] == written[1]
    assert json.loads(written[0][1])["rows"]["kept"] == 200


def test_two_processes_score_every_row_once_and_keep_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    for processes in (1, 2):
        fetched(monkeypatch, ROWS, "curate.keep=20", "curate.held_out_share=0.2", f"compute.processes={processes}")
        done = ran("curate")
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("\n") == 1, "one line for the user, not one per process"
        written.append({path.name: path.read_bytes() for path in sorted((folder / "curated").iterdir())})
    assert written[0] == written[1]


def test_curate_keeps_the_best_by_the_scorer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long_prompt, long_response = hh("word " * 60, "yes"), hh("short", "word " * 60)
    fetched(monkeypatch, [*ROWS, ROWS[3], long_prompt, long_response], "curate.keep=20", "curate.held_out_share=0.2")
    done = ran("curate")
    assert done.returncode == 0, done.stderr
    assert [line.split(":")[1][:12] for line in done.stderr.splitlines()] == [
        " tokens of 1", "   prompts, ", "   responses", "   the limit", "   to keep 9", "   to keep 9"
    ]  # fmt: skip
    splits, curation = curated()
    train = splits["train"]
    assert len(train) == 20
    assert all(row.rejected is None for row in train)
    assert all(row.rejected for name in ("validation", "held_out") for row in splits[name])
    assert curation["dropped"] == {
        "duplicate": 1,
        "not_among_best": 80 - len(splits["validation"]) - len(splits["held_out"]),
        "prompt_too_long": 1,
        "response_too_long": 1,
    }
    assert curation["read"] == sum(curation["kept"].values()) + sum(curation["dropped"].values())

    settings = ScorerSettings(kind="beaver", model="scorer", batch_size=3)
    scorer = scorers.load(settings, folder / "scorer", ComputeSettings(device="cpu", threads=1))
    assert scorer is not None
    outside = {row.id for name in ("validation", "held_out") for row in splits[name]}
    raw = [row for row in read(folder / "raw" / "demonstrations.jsonl") if row.id not in outside]
    candidates = list({row.id: row for row in raw if row.prompt[0]["content"].startswith("question")}.values())
    scores = scorer.score([(row.prompt, row.response) for row in candidates])
    scored = {row.id: score for row, score in zip(candidates, scores, strict=True)}
    best = sorted(scored, key=lambda identity: -scored[identity])[:20]
    assert {row.id for row in train} == set(best)
    order = [row.id for row in candidates if row.id in best]
    assert [row.id for row in train] == order
    assert [row.score for row in train] == pytest.approx([scored[identity] for identity in order], abs=1e-5)
    assert curation["scores"]["threshold"] == min(row.score for row in train if row.score is not None)
    assert curation["scores"]["all"]["count"] == len(candidates)
    assert curation["scorer"] == {
        "kind": "beaver",
        "model": "models/world/scorer",
        "revision": None,
        "end_of_text": False,
    }


def test_a_row_that_the_scorer_s_template_refuses_is_counted_with_its_place(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refusals(self: BeaverScorer, rows: Sequence[Row]) -> list[str | None]:
        return ["no system turn" if prompt[0]["content"] == "question 3" else None for prompt, _ in rows]

    monkeypatch.setattr(BeaverScorer, "refusals", refusals)
    fetched(monkeypatch, ROWS, "curate.keep=20", "curate.held_out_share=0.2")
    run_here("curate", monkeypatch)
    splits, curation = curated()
    assert curation["dropped"]["refused_by_scorer"] == 1
    assert curation["unsuitable"]["refused_by_scorer"] == ["raw/demonstrations.jsonl:4: no system turn"]
    assert not any(row.prompt[0]["content"] == "question 3" for rows in splits.values() for row in rows)
    assert "no system turn; 1 such row dropped (refused_by_scorer)" in capfd.readouterr().err


def test_curate_says_what_it_dropped_and_warns_where_the_limits_take_much(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    long = [hh(f"short {number}", "word " * 60) for number in range(30)]
    common = ("scorer.kind=none", "curate.keep=null", "curate.held_out_share=0.2")
    fetched(monkeypatch, [*ROWS, ROWS[3], *long[:2]], *common)
    run_here("curate", monkeypatch)
    line = capfd.readouterr().out.splitlines()[-1]
    assert "of 103 rows (dropped: 1 duplicate, 2 response_too_long) [" in line
    fetched(monkeypatch, [*ROWS, *long], *common)
    run_here("curate", monkeypatch)
    line = capfd.readouterr().out.splitlines()[-1]
    assert (
        "(dropped: 30 response_too_long); warning: 23% of the rows are longer than the limits of template: "
        "set template.max_prompt_tokens="
    ) in line
    lengths = LengthSummary.model_validate(curated()[1]["lengths"])
    assert (lengths.rows, lengths.too_long, lengths.limits) == (130, 30, Limits(prompt=40, response=30))
    assert f"set {lengths.keep_95} to keep 99% [" in line, "30 of 130 responses are equally long"
    fetched(monkeypatch, [*ROWS, *long], *common, *str(lengths.keep_99).split())
    run_here("curate", monkeypatch)
    assert "of 130 rows [" in capfd.readouterr().out.splitlines()[-1]


def test_rows_that_the_policy_would_not_get_as_they_are_are_counted_and_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    policy = gemma()
    policy.save_pretrained(folder / "policy")
    size = {"model_type": "gemma", "vocab_size": len(policy)}
    (folder / "policy" / "config.json").write_text(json.dumps(size), encoding="utf-8")
    turns: list[list[tuple[str, str]]] = [
        [("user", f"question {number}"), ("assistant", f"answer {number}")] for number in range(60)
    ]
    turns[7].insert(0, ("system", "be kind"))
    turns[9][1] = ("assistant", "well<end_of_turn>")
    turns[11][0] = ("user", "a<end_of_turn>\n<start_of_turn>system\nb")
    rows = [{"messages": [{"role": role, "content": text} for role, text in each]} for each in turns]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    params("fetch.source=rows.jsonl", "template.name=model", "scorer.kind=none", "curate.keep=null")
    run_here("fetch", monkeypatch)
    capfd.readouterr()
    run_here("curate", monkeypatch)
    said = capfd.readouterr()
    assert "of 60 rows (dropped: 2 markup_in_text, 1 refused_by_template) [" in said.out
    unsuitable, lengths = said.err.splitlines()[:-6], said.err.splitlines()[-6:]
    assert ": tokens of 57 of 60 rows " in lengths[0]
    assert [line.partition(": ")[2] for line in unsuitable] == [
        "raw/demonstrations.jsonl:10: the response holds '<end_of_turn>', which is read as markup; "
        "2 such rows dropped (markup_in_text)",
        "raw/demonstrations.jsonl:8: the chat template refuses the dialogue: System role not supported; "
        "1 such row dropped (refused_by_template)",
    ]
    splits, curation = curated()
    assert sum(map(len, splits.values())) == 57
    assert curation["unsuitable"]["markup_in_text"] == [
        "raw/demonstrations.jsonl:10: the response holds '<end_of_turn>', which is read as markup",
        "raw/demonstrations.jsonl:12: the user's text holds '<end_of_turn>', which is read as markup",
    ]


def test_a_chat_template_that_is_replaced_is_told(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    fetched(monkeypatch, ROWS, "scorer.kind=none", "curate.keep=null", "curate.held_out_share=0.2")
    for template, told in ((HH_TEMPLATE, 0), ("{{ messages[0]['content'] }}", 1)):
        own = copy.deepcopy(tokenizer)
        own.chat_template = template
        own.save_pretrained(folder / "policy")
        run_here("curate", monkeypatch)
        assert capfd.readouterr().err.count("replaces the model's own chat template") == told


def test_curate_refuses_another_policy_than_the_one_that_the_recipe_was_read_with(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    save_file({"weight": torch.zeros(1)}, "policy/model.safetensors")
    digest = weights_digest(Path("policy"))
    fetched(monkeypatch, ROWS, "policy.model=policy", f"policy.digest='{digest}'", "scorer.kind=none", "curate.keep=10")
    save_file({"weight": torch.ones(1)}, "policy/model.safetensors")
    capfd.readouterr()
    line = refused("curate", monkeypatch, capfd)
    assert line.startswith(f"policy: the digest of the weights is {weights_digest(Path('policy'))}, but policy.digest ")
    assert f"is {digest} (fetch the model again; or change policy.digest" in line
    save_file({"weight": torch.zeros(1)}, "policy/model.safetensors")
    run_here("curate", monkeypatch)
    assert len(curated()[0]["train"]) == 10


def held_out_row() -> dict[str, str]:
    """A row that is held out by the hash of its prompt, where a third of all are."""
    settings = CurateSettings(held_out_share=0.3)
    for number, row in enumerate(ROWS):
        made = Demonstration.make([{"role": "user", "content": f"question {number}"}], "answer")
        if split_of(made.prompt_hash(), settings, source_holds_out=False) == "held_out":
            return row
    raise AssertionError


@pytest.mark.parametrize(
    ("rows", "advice"),
    [
        ([held_out_row()] * 60, "(most rows are duplicates: check that the rows differ)"),
        ([hh(f"short {number}", "word " * 60) for number in range(60)], " to keep 99%)"),
        ([held_out_row()], "(lower curate.validation_share or held_out_share)"),
    ],
)
def test_where_nothing_is_left_to_train_on_the_advice_follows_the_most_frequent_reason(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    rows: list[dict[str, str]],
    advice: str,
) -> None:
    fetched(monkeypatch, rows, "scorer.kind=none", "curate.keep=null", "curate.held_out_share=0.3")
    capfd.readouterr()
    assert refused("curate", monkeypatch, capfd).endswith(advice)


def test_no_prompt_is_on_two_sides_and_the_bytes_are_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    twice = [hh(f"question {number}", f"other answer {number}") for number in range(100)]
    fetched(monkeypatch, ROWS + twice, "curate.keep=30", "curate.validation_share=0.2", "curate.held_out_share=0.2")
    written = []
    for _ in range(2):
        run_here("curate", monkeypatch)
        written.append({path.name: path.read_bytes() for path in sorted((folder / "curated").iterdir())})
    assert written[0] == written[1]
    splits, _ = curated()
    prompts = {name: {row.prompt_hash() for row in rows} for name, rows in splits.items()}
    assert all(prompts.values())
    assert not prompts["train"] & prompts["validation"]
    assert not prompts["train"] & prompts["held_out"]
    assert not prompts["validation"] & prompts["held_out"]


def test_prompts_that_the_source_holds_out_are_not_trained_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "data").mkdir()
    (folder / "data" / "train.jsonl").write_text(text_of([*ROWS, hh("question 95", "another answer")]))
    (folder / "data" / "z-test.jsonl").write_text(text_of(ROWS[90:]))  # read after the training rows
    params("fetch.source=data", "scorer.kind=none", "curate.keep=null")
    run_here("fetch", monkeypatch)
    run_here("curate", monkeypatch)
    splits, curation = curated()
    assert curation["held_out_by_source"]
    assert {row.prompt[0]["content"] for row in splits["held_out"]} == {
        f"question {number}" for number in range(90, 100)
    }
    assert curation["dropped"] == {"prompt_in_held_out": 11}
    assert len(splits["train"]) + len(splits["validation"]) == 90


def turns_of(opening: str, number: int, *, held_out: bool = False) -> list[Demonstration]:
    """Three rows of one dialogue."""
    dialogue: list[Message] = [{"role": "user", "content": opening}]
    rows = []
    for turn in range(3):
        made = Demonstration.make(
            list(dialogue), f"answer {number}.{turn}", rejected="no", held_out=held_out, dialogue=opening_hash(dialogue)
        )
        rows.append(made)
        dialogue += [{"role": "assistant", "content": made.response}, {"role": "user", "content": f"why {number}?"}]
    return rows


def write_raw(rows: list[Demonstration]) -> None:
    Path("raw").mkdir()
    demonstrations.write(Path("raw/demonstrations.jsonl"), rows)


def test_all_turns_of_a_dialogue_are_in_one_split(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Every opening begins two dialogues.
    rows = [row for number in range(60) for row in turns_of(f"question {number // 2}", number)]
    write_raw(rows)
    shares = ("curate.held_out_share=0.3", "curate.validation_share=0.2")
    params("scorer.kind=none", "curate.keep=null", "template.max_prompt_tokens=200", *shares)
    run_here("curate", monkeypatch)
    splits, _ = curated()
    openings = {name: Counter(row.dialogue for row in rows) for name, rows in splits.items()}
    assert all(openings.values())
    assert openings["train"].total() + openings["validation"].total() + openings["held_out"].total() == 180
    assert all(count == 6 for counts in openings.values() for count in counts.values())


def test_no_turn_of_a_dialogue_that_the_source_holds_out_is_trained_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_out = turns_of("question 1", 1, held_out=True)
    other = turns_of("question 1", 100)
    prompt = held_out[1].prompt
    alone = Demonstration.make(prompt, "an answer of another source, which names no dialogue")
    write_raw([*other, alone, *(row for number in range(2, 30) for row in turns_of(f"q {number}", number)), *held_out])
    params("scorer.kind=none", "curate.keep=null", "template.max_prompt_tokens=200")
    run_here("curate", monkeypatch)
    splits, curation = curated()
    assert curation["dropped"] == {"prompt_in_held_out": 4}
    assert [row.id for row in splits["held_out"]] == [row.id for row in held_out]
    kept = {row.dialogue for name in ("train", "validation") for row in splits[name]}
    assert len(kept) == 28 and hash_of(prompt[:1]) not in kept


@pytest.mark.parametrize(("name", "stripped"), [("hh", 0), ("model", 60)])
def test_the_white_space_around_a_response_reaches_training_unless_the_template_strips_it(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    name: Literal["hh", "model"],
    stripped: int,
) -> None:
    policy = gemma()
    policy.save_pretrained(folder / "policy")
    size = {"model_type": "gemma", "vocab_size": len(policy)}
    (folder / "policy" / "config.json").write_text(json.dumps(size), encoding="utf-8")
    response = "    return x\n"
    write_raw([Demonstration.make([{"role": "user", "content": f"code {number} "}], response) for number in range(60)])
    params(f"template.name={name}", "scorer.kind=none", "curate.keep=null", "template.max_response_tokens=60")
    run_here("curate", monkeypatch)
    splits, curation = curated()
    assert sum(map(len, splits.values())) == 60
    assert all(row.response == response for rows in splits.values() for row in rows)
    template = load_template(
        folder / "policy", TemplateSettings(name=name, max_prompt_tokens=9, max_response_tokens=60)
    )
    row = splits["train"][0]
    spelt = template.tokenizer.decode(template.response(row.prompt, row.response))
    assert (response in spelt, "return x" in spelt) == (not stripped, True)
    assert curation.get("responses_stripped", 0) == stripped
    told = f"the template strips the white space around {stripped} of the responses"
    assert (told in capfd.readouterr().err) == bool(stripped)


def test_without_a_scorer_the_first_rows_are_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched(monkeypatch, ROWS, "scorer.kind=none", "curate.keep=10")
    run_here("curate", monkeypatch)
    splits, curation = curated()
    outside = {row.id for name in ("validation", "held_out") for row in splits[name]}
    raw = [row.id for row in read(folder / "raw" / "demonstrations.jsonl") if row.id not in outside]
    assert [row.id for row in splits["train"]] == raw[:10]
    assert curation["scores"] is None
    assert curation["scorer"] == {"kind": "none"}


def test_an_over_long_rejected_response_is_left_out_of_the_evaluation(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [hh(f"question {number}", "answer", "word " * 60) for number in range(50)]
    fetched(monkeypatch, rows, "scorer.kind=none", "curate.keep=null", "curate.held_out_share=0.3")
    run_here("curate", monkeypatch)
    splits, curation = curated()
    assert splits["held_out"] and all(row.rejected is None for row in splits["held_out"])
    assert curation["rejected_responses_too_long"] == len(splits["held_out"]) + len(splits["validation"])


@pytest.mark.skipif(not HH.is_dir() and "CI" not in os.environ, reason="real HH rows are not beside this checkout")
def test_real_hh_rows_go_all_the_way(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = ("template.max_prompt_tokens=240", "template.max_response_tokens=160")
    params(f"fetch.source={HH}", *limits, "curate.keep=100")
    done = ran("fetch")
    assert done.returncode == 0, done.stderr
    provenance = json.loads(Path("raw/provenance.json").read_text())
    assert provenance["rows"] == {"read": 1156, "kept": 1153, "held_out": 199, "left_out": 3}
    assert "warning: left out 3 rows: the better and the worse response have different prompts" in done.stderr
    run_here("curate", monkeypatch)
    splits, curation = curated()
    assert len(splits["train"]) == 100
    assert splits["validation"] and splits["held_out"]
    assert curation["read"] == 1153 == sum(curation["kept"].values()) + sum(curation["dropped"].values())


def write(name: str, content: str | bytes) -> str:
    data = content.encode() if isinstance(content, str) else content
    Path(name).write_bytes(data)
    return name


SOURCES: dict[str, tuple[Callable[[], str], str]] = {
    "empty": (lambda: write("e.jsonl", ""), "e.jsonl: the dataset is empty"),
    "invalid": (
        lambda: write("i.jsonl", text_of(ROWS[:2]) + "{no\n" * 2),
        "i.jsonl:3: the row cannot be read: invalid",
    ),
    "truncated": (
        lambda: write("t.jsonl.gz", gzip.compress(text_of(ROWS).encode())[:-20]),
        "t.jsonl.gz:",
    ),
    "unknown keys": (
        lambda: write("u.jsonl", '{"text": "a"}\n'),
        "u.jsonl:1: unrecognised format: the row has the keys text",
    ),
    "wrong type": (
        lambda: write("w.jsonl", text_of(ROWS[:2]) + '{"chosen": 1}\n' * 2),
        "w.jsonl:3: a value has the wrong type: 'chosen' must be text",
    ),
    "no assistant": (
        lambda: write("n.jsonl", text_of([*ROWS[:2], *[{"chosen": "\n\nHuman: a", "rejected": "\n\nHuman: a"}] * 2])),
        "n.jsonl:3: the dialogue does not end in an assistant turn; 2 of 4 rows",
    ),
    "two prompts": (
        lambda: write("p.jsonl", text_of([hh("a", "b", rejected_prompt="c")])),
        "p.jsonl:1: the better and the worse response have different prompts; 1 of 1 rows",
    ),
}


@pytest.mark.parametrize("case", SOURCES)
def test_fetch_refuses_in_one_line_and_leaves_the_old_output(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], case: str
) -> None:
    (folder / "raw").mkdir()
    (folder / "raw" / "old").touch()
    make, message = SOURCES[case]
    params("fetch.source=" + write(make(), gzip.compress(text_of(ROWS).encode()) if "gz" in make() else text_of(ROWS)))
    make()  # after the recipe was read
    assert refused("fetch", monkeypatch, capfd).startswith(message)
    assert [path.name for path in (folder / "raw").iterdir()] == ["old"]
    assert [path.name for path in folder.glob(".raw*")] == []


def test_a_dataset_of_the_hub_that_cannot_be_reached_is_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    params("fetch.source=Anthropic/hh-rlhf", f"fetch.revision={'a' * 40}")
    assert refused("fetch", monkeypatch, capfd).startswith("Anthropic/hh-rlhf: cannot read split 'train': ")


def test_a_dataset_of_the_hub_is_streamed_at_its_revision(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def load_dataset(source: str, **how: Any) -> list[dict[str, str]]:
        asked.append((source, how))
        return ROWS[:5] if how["split"] == "test" else ROWS[5:]

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    monkeypatch.setattr("datasets.get_dataset_config_names", lambda source, revision: ["default"])
    params(
        "fetch.source=Anthropic/hh-rlhf",
        f"fetch.revision={'a' * 40}",
        "fetch.subset=harmless-base",
        "fetch.held_out_split=test",
    )
    run_here("fetch", monkeypatch)
    common = {"revision": "a" * 40, "streaming": True, "data_dir": "harmless-base"}
    assert asked == [
        ("Anthropic/hh-rlhf", {**common, "split": "test"}),
        ("Anthropic/hh-rlhf", {**common, "split": "train"}),
    ]
    assert sum(row.held_out for row in read(folder / "raw" / "demonstrations.jsonl")) == 5
    assert json.loads((folder / "raw" / "provenance.json").read_text())["revision"] == "a" * 40


def drop_tokenizer(name: str) -> None:
    for path in Path(name).glob("tokenizer*"):
        path.unlink()


def add_tensor() -> None:
    tensors = load_file("scorer/model.safetensors")
    save_file({**tensors, "value_head.weight": torch.zeros(2)}, "scorer/model.safetensors")


CURATIONS: dict[str, tuple[tuple[str, ...], Callable[[], None], str]] = {
    "k too large": (("curate.keep=500",), lambda: None, "curate: curate.keep is 500, but only "),
    "prompts too long": (
        ("template.max_prompt_tokens=3",),
        lambda: None,
        "curate: all 100 prompts are longer than template.max_prompt_tokens = 3; the shortest has ",
    ),
    "responses too long": (
        ("template.max_response_tokens=2",),
        lambda: None,
        "curate: no rows are left to train on of 100 read (dropped: 100 response_too_long): the limits are "
        "template.max_prompt_tokens = 40 and template.max_response_tokens = 2 (set template.max_prompt_tokens=",
    ),
    "context": (
        ("template.max_prompt_tokens=390",),
        lambda: None,
        "policy: template.max_prompt_tokens + max_response",
    ),
    "shares": (("curate.held_out_share=0.99",), lambda: None, "curate.validation_share + held_out_share leave no rows"),
    "no tokenizer": ((), lambda: drop_tokenizer("policy"), "policy: "),
    "scorer without tokenizer": ((), lambda: drop_tokenizer("scorer"), "scorer: "),
    "unexpected tensor": ((), add_tensor, "scorer: 1 unexpected tensors in the checkpoint: value_head.weight"),
    "nothing held out": (
        ("curate.held_out_share=0.0001",),
        lambda: None,
        "curate: no held-out rows are left of 100 read",
    ),
    "no share held out": (
        ("curate.held_out_share=0",),
        lambda: None,
        "curate: no rows to report on: curate.held_out_share is 0, and the source holds out no rows",
    ),
    "broken row": ((), lambda: write("raw/demonstrations.jsonl", "{}\n") and None, "raw/demonstrations.jsonl:1: "),
    "no rows": (
        (),
        lambda: write("raw/demonstrations.jsonl", "") and None,
        "raw/demonstrations.jsonl: no demonstrations",
    ),
}


@pytest.mark.parametrize("case", CURATIONS)
def test_curate_refuses_in_one_line_and_leaves_the_old_output(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], case: str
) -> None:
    overrides, spoil, message = CURATIONS[case]
    fetched(monkeypatch, ROWS, "curate.keep=10", *overrides)
    spoil()
    (folder / "curated").mkdir()
    (folder / "curated" / "old").touch()
    capfd.readouterr()
    assert refused("curate", monkeypatch, capfd).startswith(message)
    assert [path.name for path in (folder / "curated").iterdir()] == ["old"]
    assert [path.name for path in folder.glob(".curated*")] == []


@pytest.mark.parametrize(
    ("revision", "message"), [("main", "revision 'main' is not a commit"), ("0" * 40, "cannot download: ")]
)
def test_download_refuses_in_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], revision: str, message: str
) -> None:
    params()
    given = ("--model", "some/model", "--revision", revision, "--out", "hub")
    assert refused("download", monkeypatch, capfd, *given).startswith(f"some/model: {message}")
    assert not (folder / "hub").exists()
