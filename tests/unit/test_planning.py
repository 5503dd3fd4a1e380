"""A plan's arithmetic: counted parameters, textbook operations, ZeRO's memory."""

import pytest
from transformers import BertConfig, DebertaV2Config, GPT2Config

from juicer.planning.costs import decoding_seconds, shape_of, training_of
from juicer.quickstart.configuration import read_config
from juicer.recipe.graph import CONFIGS
from juicer.runtime.devices import DEVICES
from juicer.runtime.errors import InputError
from juicer.sampling.rows import cache_bytes
from juicer.settings.training import LoraSettings


def shape(name, role="policy"):
    return shape_of(name, read_config(CONFIGS / f"{name}.json")[1], role)


@pytest.fixture(scope="module")
def zephyr():
    return shape("zephyr-7b-sft-full")


@pytest.mark.parametrize(
    ("name", "role", "parameters"),
    [
        # As the models' pages count them.
        ("pythia-1b", "policy", 1_011_781_632),
        ("pythia-1.4b", "policy", 1_414_647_808),
        ("zephyr-7b-sft-full", "policy", 7_241_732_096),
        # A Llama of 7B with 32,001 tokens, its output head (32,001 x 4,096) replaced by a score and its bias.
        ("beaver-7b-v3.0-reward", "scorer", 6_738_423_808 - 32_001 * 4096 + 4096 + 1),
        # The vocabulary's head (50,304 x 2,048) replaced by one row.
        ("pythia-1b", "reward", 1_011_781_632 - 50_304 * 2048 + 2048),
    ],
)
def test_parameters_are_those_of_the_published_models(name, role, parameters):
    assert shape(name, role).parameters == parameters


def test_gpt2_s_transposed_layers_are_linear_layers_too():
    gpt2 = shape_of("gpt2", GPT2Config(), "policy")
    assert gpt2.parameters == 124_439_808
    assert gpt2.inner == 3072
    # Of each block: queries, keys and values at once; the output; into the feed-forward network and out of it.
    assert gpt2.adapters == 12 * ((768 + 2304) + (768 + 768) + 2 * (768 + 3072))


@pytest.mark.parametrize("configuration", [BertConfig, DebertaV2Config])
def test_an_encoder_as_scorer_is_counted(configuration):
    shape = shape_of("scorer", configuration(hidden_size=64, num_hidden_layers=3, num_attention_heads=2), "scorer")
    assert (shape.layers, shape.head) == (3, 64)


def test_a_forward_pass_costs_two_operations_per_parameter_and_token(zephyr):
    multiplied = zephyr.parameters - zephyr.embedding
    assert zephyr.forward(1000, 0) == 2000.0 * multiplied
    assert zephyr.forward(1000, 512) - zephyr.forward(1000, 0) == 1000 * 2 * 32 * 4096 * 512
    assert zephyr.forward(1000, 0, heads=0) == 2000.0 * (multiplied - zephyr.head)


def test_training_costs_three_forward_passes_and_a_fourth_if_activations_are_recomputed(zephyr):
    assert training_of(zephyr, "adamw").operations(1.0) == pytest.approx(3)
    assert training_of(zephyr, "adamw", recomputed=True).operations(1.0) == pytest.approx(4)


def test_adapters_train_few_parameters_but_gradients_pass_through_all_layers(zephyr):
    how = training_of(zephyr, "rmsprop", lora=LoraSettings(r=64, alpha=16))
    # q, o: 4096 + 4096; k, v: 4096 + 1024; gate, up, down: 4096 + 14336. Times rank and layers.
    assert how.trained == 64 * 32 * (2 * 8192 + 2 * 5120 + 3 * 18432)
    assert how.operations(1.0) == pytest.approx(2 + how.trained / zephyr.parameters)


def test_frozen_blocks_are_passed_forward_only():
    reward = shape("pythia-1b", "reward")
    how = training_of(reward, "adamw", frozen_blocks=12)
    assert how.trained == 4 * reward.block + 2 * 2048 + 2048  # blocks, final norm, head
    assert how.operations(1.0) == pytest.approx(1 + 0.25 + 0.25, rel=0.02)
    with pytest.raises(InputError, match=r"rft\.reward\.frozen_blocks = 17, but pythia-1b has 16 blocks"):
        training_of(reward, "adamw", frozen_blocks=17)


@pytest.mark.parametrize(
    ("zero", "bytes_per_parameter"),
    # Section 3 of arXiv 1910.02054 with float32 weights: 4 + 4 + 8 bytes for Adam, in all as many as its 2 + 2 + 12.
    [(0, 4 + 4 + 8), (2, 4 + (4 + 8) / 64), (3, (4 + 4 + 8) / 64)],
)
def test_memory_is_that_of_the_zero_paper(zephyr, zero, bytes_per_parameter):
    how = training_of(zephyr, "adamw")
    assert how.memory(64, zero) == pytest.approx(zephyr.parameters * bytes_per_parameter)


def test_rmsprop_keeps_one_moment_and_adamw_two(zephyr):
    adamw, rmsprop = (training_of(zephyr, name).memory(1, 2) for name in ("adamw", "rmsprop"))
    assert adamw - rmsprop == 4.0 * zephyr.parameters


def test_shared_heads_make_the_cache_a_quarter(zephyr):
    assert cache_bytes(zephyr, 8, 1024, 2) == 2 * 32 * 1024 * 8 * 1024 * 2


def test_decoding_few_rows_takes_as_long_as_reading_the_weights(zephyr):
    h100 = DEVICES["H100"]
    one, two = (decoding_seconds(zephyr, rows, 64, 1, 100, 2, h100, 1.0) for rows in (1, 2))
    read = 100 * 2 * zephyr.parameters / h100.bandwidth
    assert one == pytest.approx(read, rel=0.02)
    assert two == pytest.approx(one, rel=0.02)
