"""Questions of our own in the schemas of the six benchmarks, and a random model to answer them."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from juicer.evaluation.benchmarks import Source, sources, write_cards, write_split

WORDS = ("river", "stone", "cloud", "apple", "horse", "winter", "music", "paper", "bridge", "candle", "garden", "salt")


def _arc(rng: random.Random, number: int) -> dict[str, Any]:
    labels = ["1", "2", "3", "4"] if number % 2 else ["A", "B", "C", "D"]
    return {
        "id": f"ours-{number}",
        "question": f"Which of these goes with {rng.choice(WORDS)}?",
        "choices": {"text": rng.sample(WORDS, 4), "label": labels},
        "answerKey": rng.choice(labels),
    }


def _truthfulqa(rng: random.Random, number: int) -> dict[str, Any]:
    choices = [f"Some say {word}" for word in rng.sample(WORDS, 3 + number % 2)]
    targets = {"choices": choices, "labels": [1] + [0] * (len(choices) - 1)}
    return {"question": f"What is a {rng.choice(WORDS)}?", "mc1_targets": targets, "mc2_targets": targets}


def _winogrande(rng: random.Random, number: int) -> dict[str, Any]:
    first, second = rng.sample(WORDS, 2)
    sentence = f"The {first} was put on the {second} because the _ was smaller."
    return {"sentence": sentence, "option1": first, "option2": second, "answer": rng.choice("12")}


def _gsm8k(rng: random.Random, number: int) -> dict[str, Any]:
    one, two = rng.randrange(10), rng.randrange(10)
    thing = rng.choice(WORDS)
    return {
        "question": f"There is {one} {thing} and then {two} more. How many?",
        "answer": f"{one} + {two} = <<{one}+{two}={one + two}>>{one + two}\n#### {one + two}",
    }


def _hellaswag(rng: random.Random, number: int) -> dict[str, Any]:
    start, rest = f"A {rng.choice(WORDS)} is shown.", f"a {rng.choice(WORDS)}"
    return {
        "ind": number,
        "activity_label": "Looking",
        "ctx_a": start,
        "ctx_b": rest,
        "ctx": f"{start} {rest}",
        "endings": [f"moves to the {word}." for word in rng.sample(WORDS, 4)],
        "source_id": f"ours~{number}",
        "split": "ours",
        "split_type": "indomain",
        "label": rng.choice("0123"),
    }


def _mmlu(rng: random.Random, number: int) -> dict[str, Any]:
    return {
        "question": f"Which is most like a {rng.choice(WORDS)}?",
        "subject": "ours",
        "choices": rng.sample(WORDS, 4),
        "answer": rng.randrange(4),
    }


QUESTIONS: dict[str, Callable[[random.Random, int], dict[str, Any]]] = {
    "allenai/ai2_arc": _arc,
    "truthfulqa/truthful_qa": _truthfulqa,
    "allenai/winogrande": _winogrande,
    "openai/gsm8k": _gsm8k,
    "Rowan/hellaswag": _hellaswag,
    "cais/mmlu": _mmlu,
}


def questions(source: Source, split: str) -> list[dict[str, Any]]:
    """Made-up rows of one split; enough to learn from that the paper's few-shot counts can be had."""
    rng = random.Random(f"{source.dataset} {source.configuration} {split}")
    number = 26 if split == "train" else 2 if source.dataset == "cais/mmlu" else 5 + len(str(source.configuration)) % 3
    return [QUESTIONS[source.dataset](rng, place) for place in range(number)]


def write_hub(folder: Path) -> Path:
    """Made-up questions in every file that the stock tasks read, in folders named like the data sets of the hub."""
    known = sources()
    for source in known:
        for split in source.splits:
            write_split(folder, source, split, questions(source, split))
    write_cards(folder, known)
    return folder


def write_model(folder: Path) -> Path:
    """A random GPT-NeoX, with a context that leaves room for the 256 tokens that gsm8k generates."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet)
    made.train_from_iterator([" ".join(WORDS)] * 10, trainer)
    end = "<|endoftext|>"
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, eos_token=end, bos_token=end, pad_token=end)
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=384,
        eos_token_id=0,
        bos_token_id=0,
        pad_token_id=0,
    )
    GPTNeoXForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
