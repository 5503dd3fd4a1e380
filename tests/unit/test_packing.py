"""Packed rows: dialogues one after another, each with what the model says of it alone."""

import copy
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import CONFIG_MAPPING

from juicer.data.dialogues import Dialogue
from juicer.models.forward import full_precision, shrunken_model
from juicer.models.log_probability import Batch, response_log_probabilities, score_dialogues, token_batches
from juicer.models.packing import (
    MULTIPLE,
    VARLEN,
    PackedBatch,
    block_mask,
    can_pack,
    kernel_parameters,
    measured_packing,
    packed_attention,
    packed_passes,
    varlen,
)

CPU = torch.device("cpu")
NEWEST = kernel_parameters()
DIALOGUES = [Dialogue([5, 6, 7], [8, 9, 0]), Dialogue([5], [10]), Dialogue([11, 12], [13, 14, 15, 16, 0])]


def test_a_row_holds_the_dialogues_one_after_another_and_is_filled_up():
    batch = PackedBatch.of(DIALOGUES, 1, CPU)
    assert batch.tokens.tolist() == [[5, 6, 7, 8, 9, 0, 5, 10, 11, 12, 13, 14, 15, 16, 0, 1]]
    assert batch.positions.tolist() == [[0, 1, 2, 3, 4, 5, 0, 1, 0, 1, 2, 3, 4, 5, 6, 0]]
    assert batch.bounds.tolist() == [0, 6, 8, 15, 16]
    assert batch.ends.tolist() == [5, 7, 14]
    assert batch.rows.tolist() == [0, 0, 0, 1, 2, 2, 2, 2, 2]
    assert batch.targets.tolist() == [8, 9, 0, 10, 13, 14, 15, 16, 0]
    assert batch.tokens[0][batch.sources].tolist() == [7, 8, 9, 5, 12, 13, 14, 15, 16]
    assert batch.tokens.shape[1] % MULTIPLE == 0


def test_log_probabilities_of_a_packed_row_are_those_of_each_dialogue_alone(policy):
    alone = torch.cat([score_dialogues(policy, [each], 1) for each in DIALOGUES])
    with packed_passes(policy), torch.no_grad():
        packed = response_log_probabilities(policy, PackedBatch.of(DIALOGUES, 1, CPU))
    torch.testing.assert_close(packed, alone, atol=2e-5, rtol=0)
    assert policy.config._attn_implementation != VARLEN


def test_a_gradient_through_a_packed_row_is_that_through_padded_ones(policy):
    gradients = []
    for packed in (False, True):
        each = copy.deepcopy(policy)
        if packed:
            with packed_passes(each):
                response_log_probabilities(each, PackedBatch.of(DIALOGUES, 1, CPU)).sum().backward()
        else:
            for dialogue in DIALOGUES:
                response_log_probabilities(each, Batch.of([dialogue], 1, CPU)).sum().backward()
        gradients.append([parameter.grad for parameter in each.parameters()])
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-4)


def test_many_dialogues_are_scored_in_rows_of_so_many_tokens(policy):
    wanted = score_dialogues(policy, DIALOGUES, 1)
    with packed_passes(policy):
        found = score_dialogues(policy, DIALOGUES, 1, tokens=9)
    torch.testing.assert_close(found, wanted, atol=2e-5, rtol=0)
    assert token_batches(DIALOGUES, 9) == [[2], [0, 1]]
    assert token_batches(DIALOGUES, 1) == [[2], [0], [1]]


@pytest.mark.parametrize(
    ("architecture", "settings"),
    [("gpt_neox", {}), ("mistral", {}), ("qwen2", {}), ("gemma3_text", {}), ("gpt2", {}), ("opt", {}), ("mixtral", {})],
)
def test_attention_with_positions_windows_and_shared_heads_can_be_packed(architecture, settings):
    assert measured_packing(shrunken_model(CONFIG_MAPPING[architecture](**settings)))


@pytest.mark.parametrize(
    ("architecture", "settings"),
    [
        ("gemma2", {}),  # caps its attention
        ("bloom", {}),  # has no positions to restart
        ("mamba", {}),
        ("gpt_oss", {}),  # has sinks
        ("lfm2", {"num_hidden_layers": 4, "layer_types": ["conv", "full_attention"] * 2}),  # looks back by convolution
    ],
)
def test_a_model_that_would_see_its_neighbours_is_not_packed(architecture, settings):
    assert not measured_packing(shrunken_model(CONFIG_MAPPING[architecture](**settings)))


def test_whether_a_model_packs_is_measured_once(policy, monkeypatch):
    assert can_pack(policy)
    monkeypatch.setattr("juicer.models.packing.measured_packing", lambda model: False)
    assert can_pack(policy)


def test_a_padded_pass_is_refused_where_packed_ones_are_expected(policy):
    with packed_passes(policy), pytest.raises(NotImplementedError, match="bounds of packed dialogues"):
        score_dialogues(policy, DIALOGUES, 1)


def test_a_token_attends_to_its_own_dialogue_within_the_window():
    mask = block_mask(torch.tensor([0, 3, 5], dtype=torch.int32), 5, window=2)
    assert mask.int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 1, 1, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 1, 1],
    ]


@pytest.mark.parametrize("asked", [{"softcap": 5.0}, {"dropout": 0.1}, {"s_aux": torch.ones(1)}])
def test_attention_that_is_not_computed_is_refused(asked):
    states = torch.ones(1, 1, 4, 2)
    bounds = {"cu_seq_lens_q": torch.tensor([0, 4], dtype=torch.int32), "max_length_q": 4}
    with pytest.raises(NotImplementedError, match="lacks what"):
        packed_attention(torch.nn.Identity(), states, states, states, None, **bounds, **asked, known=NEWEST)


def attended(query, key, value, bounds, scale, window):
    """Attention of variable lengths as torch's kernel defines it, a dialogue at a time."""
    parts = []
    for start, end in pairwise(bounds.tolist()):
        q, k, v = (states[start:end].transpose(0, 1) for states in (query, key, value))
        mask = block_mask(torch.tensor([0, end - start], dtype=torch.int32), end - start, window)
        parts.append(scaled_dot_product_attention(q, k, v, mask, scale=scale, enable_gqa=len(q) != len(k)))
    return torch.cat(parts, 1).transpose(0, 1)


def newest(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1), enable_gqa=False):
    assert enable_gqa == (query.shape[1] != key.shape[1])
    assert window_size[1] == 0, "causal"
    window = None if window_size[0] < 0 else window_size[0] + 1
    return attended(query, key, value, cu_seq_q, scale, window)


def first(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False):
    assert is_causal
    return attended(query, key, value, cu_seq_q, None, None)


@pytest.mark.parametrize("kernel", [newest, first])
@pytest.mark.parametrize("window", [None, 2, 64])
def test_the_kernel_of_every_release_of_torch_is_asked_for_the_same(kernel, window, monkeypatch):
    monkeypatch.setattr("juicer.models.packing.kernel", lambda: kernel)
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, heads, 9, 4) for heads in (4, 2, 2))
    bounds = {"cu_seq_lens_q": torch.tensor([0, 5, 9], dtype=torch.int32), "max_length_q": 5}
    masked, _ = packed_attention(
        None, query, key, value, None, scaling=0.3, sliding_window=window, **bounds, known=NEWEST
    )
    states = [each[0].transpose(0, 1) for each in (query, key, value)]
    given = (*states, bounds["cu_seq_lens_q"], 5, 0.3, window, kernel_parameters())
    if kernel is first and window == 2:
        with pytest.raises(NotImplementedError, match="no sliding window"):
            varlen(*given)
    else:
        torch.testing.assert_close(varlen(*given), masked[0], atol=1e-6, rtol=1e-5)


def test_the_kernel_gets_one_type_where_rotations_have_raised_it(monkeypatch):
    seen = []

    def kernel(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1)):
        seen.append({query.dtype, key.dtype, value.dtype})
        return query

    monkeypatch.setattr("juicer.models.packing.kernel", lambda: kernel)
    monkeypatch.setattr("juicer.models.packing.has_kernel", lambda query, value: value.dtype == torch.bfloat16)
    states = torch.ones(1, 2, 4, 2)
    bounds = {"cu_seq_lens_q": torch.tensor([0, 4], dtype=torch.int32), "max_length_q": 4}
    result, _ = packed_attention(None, states, states, states.bfloat16(), None, **bounds, known=NEWEST)
    assert seen == [{torch.bfloat16}]
    assert result.shape == (1, 4, 2, 2)


def test_values_narrower_than_queries_are_widened_for_the_kernel(monkeypatch):
    """Those of multi-head latent attention; the kernel takes one width."""

    def kernel(query, key, value, *rest, scale=None, window_size=(-1, -1)):
        assert query.shape[2] == key.shape[2] == value.shape[2]
        return attended(query, key, value, rest[0], scale, None)

    monkeypatch.setattr("juicer.models.packing.kernel", lambda: kernel)
    torch.manual_seed(0)
    query, key, value = torch.randn(1, 2, 9, 6), torch.randn(1, 2, 9, 6), torch.randn(1, 2, 9, 4)
    bounds = {"cu_seq_lens_q": torch.tensor([0, 5, 9], dtype=torch.int32), "max_length_q": 5}
    masked, _ = packed_attention(None, query, key, value, None, scaling=0.3, **bounds, known=NEWEST)
    monkeypatch.setattr("juicer.models.packing.has_kernel", lambda query, value: True)
    by_kernel, _ = packed_attention(None, query, key, value, None, scaling=0.3, **bounds, known=NEWEST)
    torch.testing.assert_close(by_kernel, masked, atol=1e-6, rtol=1e-5)


def test_the_kernel_is_one_graph_with_its_block(policy, monkeypatch):
    """What a GPU compiles, traced on a CPU with a stand-in for the kernel: a break of the graph would be an error."""

    def kernel(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1)):
        mask = block_mask(cu_seq_q, len(query))
        states = (each.transpose(0, 1) for each in (query, key, value))
        return scaled_dot_product_attention(*states, mask, scale=scale).transpose(0, 1)

    monkeypatch.setattr("juicer.models.packing.kernel", lambda: kernel)
    batches = [PackedBatch.of(some, 1, CPU) for some in (DIALOGUES, DIALOGUES[:2])]
    with packed_passes(policy), torch.no_grad():
        plain = [response_log_probabilities(policy, batch) for batch in batches]
        monkeypatch.setattr("juicer.models.packing.has_kernel", lambda query, value: True)
        torch._dynamo.reset()
        for block in policy.base_model.layers:
            block.compile(dynamic=True, fullgraph=True, backend="eager")
        found = [response_log_probabilities(policy, batch) for batch in batches]
    for one, other in zip(plain, found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_blocks_are_compiled_within_the_passes_only_and_say_the_same(policy):
    batch, block = PackedBatch.of(DIALOGUES, 1, CPU), policy.base_model.layers[0]
    compute = partial(response_log_probabilities, policy)
    with packed_passes(policy), torch.no_grad():
        plain = compute(batch)
    with packed_passes(policy, compiled=True), torch.no_grad():
        assert block._compiled_call_impl is not None
        torch.testing.assert_close(compute(batch), plain, atol=1e-5, rtol=0)
        short = compute(PackedBatch.of(DIALOGUES[:2], 1, CPU))
    assert block._compiled_call_impl is None
    torch.testing.assert_close(short, plain[:2], atol=1e-5, rtol=0)


def test_measuring_leaves_the_precision_alone(policy):
    with torch.autocast("cpu", torch.bfloat16), full_precision():
        assert measured_packing(shrunken_model(policy.config))
