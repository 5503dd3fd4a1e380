"""Bad model folders, each made from a good tiny one."""

import functools
import json
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dev.hostile import Case, Kind

TEXT = ["Human: hello, how are you? Assistant: very well, thank you"] * 10
WEIGHTS = "model.safetensors"


@functools.cache
def good(kind: Kind) -> Path:
    """A good tiny model folder, made once."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import (
        GPTNeoXConfig,
        GPTNeoXForCausalLM,
        GPTNeoXForSequenceClassification,
        LlamaConfig,
        PreTrainedTokenizerFast,
    )

    from juicer.scorers.beaver import BeaverModel

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    special, letters = ["<|endoftext|>", "<|padding|>"], pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        TEXT, trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=letters, show_progress=False)
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token=special[0], bos_token=special[0], pad_token=special[1]
    )
    torch.manual_seed(0)
    folder = Path(tempfile.mkdtemp(prefix="juicer-hostile-")) / kind
    sizes: dict[str, Any] = {
        "vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": 64,
    }  # fmt: skip
    if kind == "scorer":
        BeaverModel.create(LlamaConfig(**sizes, bos_token_id=0, eos_token_id=0, pad_token_id=1)).save(folder)
    else:
        config = GPTNeoXConfig(**sizes, bos_token_id=0, eos_token_id=0, pad_token_id=1)
        config.num_labels = 1
        build = GPTNeoXForCausalLM if kind == "policy" else GPTNeoXForSequenceClassification
        build(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


Change = Callable[[Path], None]


def _made(kind: Kind, change: Change) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / "model"
        shutil.copytree(good(kind), path)
        change(path)
        return path

    return make


def _values(name: str = "config.json", **changes: Any) -> Change:
    def change(folder: Path) -> None:
        values = json.loads((folder / name).read_text()) if (folder / name).is_file() else {}
        (folder / name).write_text(json.dumps({**values, **changes}))

    return change


def _content(name: str, content: bytes | Callable[[bytes], bytes]) -> Change:
    def change(folder: Path) -> None:
        path = folder / name
        path.write_bytes(content if isinstance(content, bytes) else content(path.read_bytes()))

    return change


def _without(*names: str) -> Change:
    def change(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return change


def _renamed(name: str) -> Change:
    def change(folder: Path) -> None:
        (folder / WEIGHTS).rename(folder / name)

    return change


def _tensors(edit: Callable[[dict[str, Any]], None]) -> Change:
    def change(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        tensors = {name: tensor.clone() for name, tensor in load_file(folder / WEIGHTS).items()}
        edit(tensors)
        save_file(tensors, folder / WEIGHTS, {"format": "pt"})

    return change


def _fill(name: str, value: float) -> Change:
    def edit(tensors: dict[str, Any]) -> None:
        tensors[name].view(-1)[3] = value

    return _tensors(edit)


def _header(edit: Callable[[dict[str, Any]], Any]) -> Change:
    def change(content: bytes) -> bytes:
        length = struct.unpack("<Q", content[:8])[0]
        header = json.loads(content[8 : 8 + length])
        edit(header)
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + content[8 + length :]

    return _content(WEIGHTS, change)


def _index(names: Any) -> Change:
    def change(folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))

    return change


def _links(name: str) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to(name)

    return change


def _code(folder: Path) -> None:
    mapped = {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M", "AutoModelForSequenceClassification": "own.M"}
    _values(model_type="own", auto_map=mapped)(folder)
    (folder / "own.py").write_text("open('pwned', 'w').close()\nclass C: pass\nclass M: pass\n")


def _bigger(tensors: dict[str, Any]) -> None:
    import torch

    name = next(name for name in tensors if "0" in name and tensors[name].dim() == 2)
    tensors[name] = torch.zeros(tensors[name].shape[0] + 8, tensors[name].shape[1])


LAYER = "gpt_neox.layers.1.attention.dense.weight"
ALL: dict[str, tuple[Change, str]] = {
    "code of its own": (_code, "config.json: the model brings Python code of its own (auto_map"),
    "a million layers": (_values(num_hidden_layers=1_000_000), "num_hidden_layers is 1000000; no model has more"),
    "truncated weights": (_content(WEIGHTS, lambda old: old[:-100]), "model.safetensors: the safetensors file is dam"),
    "half the weights": (_content(WEIGHTS, lambda old: old[: len(old) // 2]), "bytes after the file"),
    "a git-LFS pointer": (_content(WEIGHTS, b"version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
    "a config.json that is no JSON": (_content("config.json", b'{"a": '), "config.json:1: invalid JSON"),
    "wrong shapes": (_tensors(_bigger), "but config.json asks for"),
}
POLICY: dict[str, tuple[Change, str]] = {
    "a tokenizer with code of its own": (
        _values("tokenizer_config.json", auto_map={"AutoTokenizer": ["own.T", None]}),
        "tokenizer_config.json: the model brings Python code of its own",
    ),
    "40 layers for 2": (_values(num_hidden_layers=40), "num_hidden_layers is 40, but the weights have 2 blocks"),
    "1 layer of 2": (_values(num_hidden_layers=1), "num_hidden_layers is 1, but the weights have 2 blocks"),
    "no layer of 2": (_values(num_hidden_layers=0), "num_hidden_layers is 0, but the weights have 2 blocks"),
    "a hidden size of 10^12": (_values(hidden_size=10**12), "hidden_size is 1000000000000; no model has more than"),
    "a hidden size of 2^20": (_values(hidden_size=2**20), "but config.json asks for [293, 1048576]"),
    "a vocabulary of 10^15": (_values(vocab_size=10**15), "vocab_size is 1000000000000000; no model has more than"),
    "a context of 10^12": (_values(max_position_embeddings=10**12), "max_position_embeddings is"),
    "no heads": (_values(num_attention_heads=0), "transformers cannot load the"),
    "a negative size": (_values(intermediate_size=-8), "intermediate_size is -8"),
    "an unknown model_type": (_values(model_type="nonsense"), "transformers cannot load the"),
    "a text for a size": (_values(hidden_size="big"), "transformers cannot load the"),
    "an unknown activation": (_values(hidden_act="nonsense"), "transformers cannot load the model"),
    "a config.json in Latin-1": (_content("config.json", b'{"a": "\xe9"}'), "config.json: not UTF-8"),
    "an empty config.json": (_content("config.json", b""), "config.json:1: invalid JSON"),
    "a list for config.json": (_content("config.json", b"[]"), "config.json: must be a JSON object, not list"),
    "a deep config.json": (_content("config.json", b'{"a":' + b"[" * 200_000), "config.json: invalid JSON: nested"),
    "a config.json of 100 MB": (_content("config.json", b" " * 100_000_000), "too large for such a file"),
    "an adapter beside it": (_content("adapter_config.json", b"{}"), "holds an adapter (adapter_config.json)"),
    "no config.json": (_without("config.json"), "no model here (no config.json)"),
    "a config.json that links to itself": (_links("config.json"), "no model here (no config.json)"),
    "weights that link to themselves": (_links(WEIGHTS), "holds no safetensors weights"),
    "no weights": (_without(WEIGHTS), "holds no safetensors weights"),
    "pickled weights": (_renamed("pytorch_model.bin"), "only pytorch_model.bin, which is pickled and can run code"),
    "pickled weights, .pt": (_renamed("model.pt"), "safe_serialization=True"),
    "weights of 0 bytes": (_content(WEIGHTS, b""), "model.safetensors: the safetensors file is damaged"),
    "a header of 2^60 bytes": (_content(WEIGHTS, b"\0" * 7 + b"\x10{}"), "model.safetensors: the safetensors file is"),
    "a header that is no JSON": (_content(WEIGHTS, b"\4" + b"\0" * 7 + b"{{{{"), "its header is not a list of tensors"),
    "a header without tensors": (_content(WEIGHTS, b"\2" + b"\0" * 7 + b"{}"), "it holds no tensor"),
    "a tensor beyond the file": (
        _header(lambda header: header[LAYER].update(data_offsets=[0, 10**12])),
        f"{LAYER} ends",
    ),
    "a tensor of another size": (
        _header(lambda header: header[LAYER].update(shape=[10**6, 10**6])),
        f"{LAYER} has not as many bytes as the shape",
    ),
    "a missing tensor": (_tensors(lambda tensors: tensors.pop(LAYER)), "1 of the model's tensors are missing"),
    "a NaN": (_fill(LAYER, float("nan")), f"{LAYER} holds NaN or infinite weights"),
    "an infinity": (_fill(LAYER, float("-inf")), f"{LAYER} holds NaN or infinite weights"),
    "a missing shard": (_index({LAYER: "model-00001-of-00002.safetensors"}), "00001-of-00002.safetensors: the safeten"),
    "a shard above the folder": (_index({LAYER: "../../model.safetensors"}), "which is not a file of this folder"),
    "an index without a map": (_index(None), "no weight_map"),
    "an index of numbers": (_index({LAYER: 3}), "no weight_map"),
    "no tokenizer": (_without("tokenizer.json"), "holds no tokenizer"),
    "a tokenizer that is no JSON": (_content("tokenizer.json", b"{"), "transformers cannot load the tokenizer"),
    "a tokenizer of another model": (_values(vocab_size=200), "the tokenizer has a token"),
    "a missing folder": (shutil.rmtree, "no model here (no config.json)"),
}  # fmt: skip


def cases() -> Iterator[Case]:
    """All bad model folders."""
    kinds: tuple[Kind, ...] = ("policy", "scorer", "reward")
    for kind in kinds:
        for name, (change, says) in ALL.items():
            yield Case(f"{kind}: {name}", kind, _made(kind, change), says)
    for name, (change, says) in POLICY.items():
        yield Case(f"policy: {name}", "policy", _made("policy", change), says)


def load(kind: Kind, folder: Path) -> None:
    """Load a model folder, as the stages do."""
    from juicer.models.loading import load_policy, load_tokenizer
    from juicer.scorers import load as load_scorer
    from juicer.settings.compute import ComputeSettings
    from juicer.settings.data import ScorerSettings

    compute = ComputeSettings(device="cpu", threads=1)
    if kind == "policy":
        load_tokenizer(folder)
        load_policy(folder, compute)
    else:
        format_: Any = "beaver" if kind == "scorer" else "sequence-classification"
        load_scorer(ScorerSettings(kind=format_, model=str(folder)), folder, compute)
