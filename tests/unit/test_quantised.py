"""QLoRA: adapters train over weights of 4 bits, and are kept for the original ones. Needs bitsandbytes."""

from pathlib import Path

import pytest
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from juicer.models.adapters import read_adapter
from juicer.models.folder import base_record
from juicer.models.loading import TRAINING_DTYPE, load_policy, save_policy
from juicer.models.shape import count_parameters
from juicer.settings.compute import ComputeSettings
from juicer.settings.training import LoraSettings
from juicer.training.adapters import add_adapters, keep_masters, merge_adapters, save_trained

bitsandbytes = pytest.importorskip("bitsandbytes", reason="the optional extra qlora is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # of bitsandbytes, about the CPU

BASE = Path("models/base")
CPU = ComputeSettings(device="cpu", precision="bf16")
LORA = LoraSettings(r=4, alpha=8, base="nf4")
TOKENS = torch.arange(48).reshape(2, 24)


@pytest.fixture
def base(tokenizer, template, tmp_path, monkeypatch):
    """A whole model with matrices that bitsandbytes quantises: their blocks have 64 weights."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=128,
    )  # fmt: skip
    save_policy(GPTNeoXForCausalLM(config).eval(), template, BASE, None)
    return BASE


def log_probability(model: torch.nn.Module) -> torch.Tensor:
    """log pi of the rows, in nats."""
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        scores = model.eval()(input_ids=TOKENS).logits.float().log_softmax(-1)
    return scores[:, :-1].gather(-1, TOKENS[:, 1:, None]).sum((1, 2))


def test_adapters_train_in_float32_over_weights_of_4_bits_and_are_kept_for_the_original_ones(base, template):
    parameters = count_parameters(load_policy(base, CPU, TRAINING_DTYPE))
    for start, out in ((base, Path("r1")), (Path("r1"), Path("r2"))):
        model = load_policy(start, CPU, TRAINING_DTYPE, "nf4")
        assert count_parameters(model) == parameters
        assert type(model.gpt_neox.layers[0].mlp.dense_h_to_4h).__name__ == "Linear4bit"
        handle = add_adapters(model, LORA, seed=0)
        keep_masters(model)
        trained = [p for p in model.parameters() if p.requires_grad]
        assert {p.dtype for p in trained} == {torch.float32}
        optimiser, losses = torch.optim.AdamW(trained, lr=1e-2), []
        for _ in range(4):
            with torch.autocast("cpu", torch.bfloat16):
                loss = model(input_ids=TOKENS, labels=TOKENS).loss
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()
            losses.append(float(loss))
        assert losses[-1] < losses[0]
        merge_adapters(handle)
        save_trained(model, template, out, {"facts": {}}, LORA, start)
    assert base_record(Path("r2")).ranks == [4, 4]
    assert read_adapter(Path("r2")).rank == 8
    # What trained and what is kept differ by the quantisation of the base model, far less than training has changed.
    kept, before = load_policy(Path("r2"), CPU, torch.bfloat16), load_policy(base, CPU, torch.bfloat16)
    difference = (log_probability(model) - log_probability(kept)).abs().max()
    change = (log_probability(kept) - log_probability(before)).abs().min()
    print(f"difference {difference:.3f} nats, change {change:.3f} nats")
    assert difference < change / 4
