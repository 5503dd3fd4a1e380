"""A project with the quickstart's recipe and one tiny random model in it, for the commands that use a model."""

import os
import sys
from pathlib import Path

import torch

from juicer.data.template import Template
from juicer.models.loading import save_policy
from juicer.quickstart.pretraining import train_tokenizer
from juicer.recipe.activation import activate
from juicer.settings.data import TemplateSettings

ROOT = Path(__file__).resolve().parents[1]
TEXTS = [
    "hello, how are you? very well, thank you",
    "the world is nice; it is\n",
    "\n\nHuman: hello\n\nAssistant: it is",
]


def make(folder: Path, overrides: tuple[str, ...] = ()) -> Path:
    """Make the project in an empty folder; its model is models/sft. Returns the folder."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    (folder / "tasks").mkdir()
    (folder / "dvc.yaml").touch()
    activate(ROOT / "recipes/quickstart.yaml", list(overrides), folder / "params.yaml")
    tokenizer = train_tokenizer(TEXTS * 20, 300, ("\n\nHuman:", "\n\nAssistant:"))
    template = Template(tokenizer, TemplateSettings(max_prompt_tokens=64, max_response_tokens=40))
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=2048,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=template.padding,
        bos_token_id=tokenizer.bos_token_id,
    )
    policy = GPTNeoXForCausalLM(config)
    with torch.no_grad():
        policy.get_output_embeddings().weight.mul_(20)
    save_policy(policy, template, folder / "models/sft", None)
    return folder


def environment(**more: str) -> dict[str, str]:
    """Variables for `python -m juicer` in such a project, with this checkout's code and no registry."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "MLFLOW_", "PREFECT_"))}
    return {**kept, "PYTHONPATH": str(ROOT), "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", **more}


def juicer(*words: str) -> list[str]:
    """The command line of a command."""
    return [sys.executable, "-m", "juicer", *words]
