"""What is in a model folder, checked by its small files and the headers of its weights before anything is built.

A configuration of a million layers, a damaged shard or code that came with the model is refused within a second, and
nothing of the folder is run. A folder holds a whole model, or adapters and the record of the base model that they are
for (`juicer.models.adapters`).
"""

import json
import math
import re
from pathlib import Path
from typing import Any

from pydantic import Field

from juicer.runtime.errors import InputError
from juicer.settings.base import Settings

INDEX = "model.safetensors.index.json"
SMALL_FILE = 64 * 2**20
"""Largest config.json, index or header of weights. Indices of the largest models have 10 MB."""
BOUNDS = (
    (re.compile(r"(num_.*layers|n_layers?|.*_layers|.*_depth)"), 2000),
    (re.compile(r".*experts.*"), 10_000),
    (re.compile(r".*(size|positions|_dim|max_position.*|n_embd|n_inner|heads?|head_num|n_ctx|rank)"), 2**24),
)
"""Largest values in a config.json, by the names of the keys. No model comes near."""
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle")
BITS = {
    "F64": 64, "I64": 64, "U64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16, "I16": 16, "U16": 16,
    "I8": 8, "U8": 8, "BOOL": 8, "C64": 64,
}  # fmt: skip
_LAYER = re.compile(r"\.(?:layers?|h|blocks?)\.(\d+)\.")
_OWN_LAYER = re.compile(r"(?:[a-z_]+\.)?(?:layers|h|blocks)\.(\d+)\.")
"""Blocks of a language model itself, not of a tower for images beside it."""


ADAPTERS, ADAPTER_CONFIG, BASE = "adapter_model.safetensors", "adapter_config.json", "base.json"


class BaseRecord(Settings):
    """The base model of a folder with adapters, as base.json states it."""

    base: str = Field(min_length=1)
    """Folder of the base model, seen from the project's root. It holds a whole model."""
    digest: str = Field(pattern="[0-9a-f]{64}")
    """SHA-256 of the base model's weights (`juicer.models.digest`)."""
    ranks: list[int]
    """Rank of the adapters of each training since the base model, the first one first. The folder holds all of them,
    one after another in the rows of A and the columns of B. Without any the model is the base model itself."""


def base_record(folder: Path) -> BaseRecord | None:
    """What a folder says of the base model of its adapters; None for a folder with a whole model.

    Raises:
        InputError: base.json is damaged.
    """
    path = folder / BASE
    return BaseRecord.parse(read_small_json(path), str(path)) if _is_file(path) else None


def base_folder(folder: Path, record: BaseRecord) -> Path:
    """The base model of a folder with adapters.

    Raises:
        InputError: it is not there, or is no whole model.
    """
    base = Path(record.base)
    if not _is_file(base / "config.json"):
        what = f"the base model of these adapters, {record.base}, is not here"
        raise InputError(what, where=str(folder), do=f"run in the project's root; or fetch it: dvc pull {record.base}")
    if _is_file(base / BASE):
        what = f"the base model of these adapters, {record.base}, is no whole model, but adapters too"
        raise InputError(what, where=str(folder / BASE), do="make the folder again: juicer run")
    return base


def check_folder(folder: Path) -> dict[str, tuple[int, ...]]:
    """Check a model folder, without reading its weights.

    Returns:
        The shapes of the tensors, by name; with adapters those of the whole model.

    Raises:
        InputError: there is no model, it brings code of its own, its weights are pickled, damaged or incomplete, or
            its configuration is not one of them; names the file. Or there are adapters without their base model.
    """
    record = base_record(folder)
    if record is None:
        check_no_adapter(folder)
    values = read_config_values(folder)
    shapes: dict[str, tuple[int, ...]] = {}
    for path in weight_files(folder if record is None else base_folder(folder, record)):
        shapes.update(read_shapes(path))
    if record is not None and record.ranks:
        if not _is_file(folder / ADAPTERS):
            raise InputError("the adapters are missing", where=str(folder / ADAPTERS), do="make the folder again")
        shapes.update(
            {
                name.removeprefix("base_model.model."): shape
                for name, shape in read_shapes(folder / ADAPTERS).items()
                if ".lora_" not in name
            }
        )
    _check_layers(values, shapes, folder / "config.json")
    return shapes


def check_no_adapter(folder: Path) -> None:
    """Refuse a folder with an adapter: transformers would put it into the model, or load it without a model.

    Raises:
        InputError: there is an adapter_config.json, whatever stands beside it.
    """
    if _is_file(folder / "adapter_config.json"):
        what = "the folder holds an adapter (adapter_config.json), not only a whole model"
        do = "merge it into its base model by peft's merge_and_unload(), and save that with its tokenizer"
        if _is_file(folder / BASE):
            do = "take the merged model of the project that made it: juicer export MODEL --to folder"
        raise InputError(what, where=str(folder), do=do)


def read_config_values(folder: Path) -> dict[str, Any]:
    """The values of a model's config.json, and of the configurations in it, within sane bounds.

    Raises:
        InputError: there is none, it is no JSON object or absurd, or the folder brings code of its own.
    """
    path = folder / "config.json"
    if not _is_file(path):
        raise InputError("no model here (no config.json)", where=str(folder), do="check the model's path")
    values = read_small_json(path)
    check_values(values, str(path))
    for name in ("tokenizer_config.json", "generation_config.json", "preprocessor_config.json"):
        if _is_file(folder / name) and (found := _own_code(read_small_json(folder / name))):
            raise _code_refused(folder / name, found)
    return values


def check_values(values: dict[str, Any], where: str, below: int = 0) -> None:
    """Raise InputError for a configuration with code of its own, or with a size that no model has."""
    if found := _own_code(values):
        raise _code_refused(Path(where), found)
    for key, value in values.items():
        if isinstance(value, dict) and below < 5:
            check_values(value, where, below + 1)
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        largest = next((limit for pattern, limit in BOUNDS if pattern.fullmatch(key)), None)
        if largest is not None and not -1 <= value <= largest:
            shown = value if abs(value) < 1e30 else "a huge number"
            raise InputError(f"{key} is {shown}; no model has more than {largest:,}", where=where)


def _own_code(values: dict[str, Any]) -> str | None:
    mapped = values.get("auto_map")
    return None if not mapped else ", ".join(map(str, mapped)) if isinstance(mapped, dict) else str(mapped)


def _code_refused(path: Path, found: str) -> InputError:
    what = f"the model brings Python code of its own (auto_map: {found[:100]}), which is never run"
    do = "use a model that transformers has; if it has this one, remove auto_map from the file"
    return InputError(what, where=str(path), do=do)


def read_small_json(path: Path) -> dict[str, Any]:
    """A JSON object in a small file.

    Raises:
        InputError: the file is missing, too large, or no JSON object; names it.
    """
    try:
        size = path.stat().st_size
        if size > SMALL_FILE:
            raise InputError(f"{size:,} bytes, which is too large for such a file", where=str(path))
        values = json.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError as error:
        raise InputError("no such file", where=str(path)) from error
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8: {error.reason} at byte {error.start}", where=str(path)) from error
    except json.JSONDecodeError as error:
        raise InputError(f"invalid JSON: {error.msg}", where=f"{path}:{error.lineno}") from error
    except (ValueError, RecursionError) as error:
        raise InputError("invalid JSON: nested too deeply, or a number that is too long", where=str(path)) from error
    if not isinstance(values, dict):
        raise InputError(f"must be a JSON object, not {type(values).__name__}", where=str(path))
    return values


def context_of(values: dict[str, Any]) -> int | None:
    """The context in tokens that a model's config.json states; None where it states none.

    Beyond the context that LongRoPE was scaled from, transformers takes other factors for the whole batch, so that what
    a row says would depend on the rows beside it: such a model ends there.
    """
    inner = values.get("text_config") or values
    names = ("max_position_embeddings", "n_positions", "n_ctx", "seq_length", "max_seq_len", "max_sequence_length")
    stated = next((inner[name] for name in names if isinstance(inner.get(name), int)), None)
    scaling = inner.get("rope_parameters") or inner.get("rope_scaling") or {}
    if not isinstance(scaling, dict) or "longrope" not in (scaling.get("rope_type"), scaling.get("type")):
        return stated
    scaled_from = scaling.get("original_max_position_embeddings", inner.get("original_max_position_embeddings"))
    return min(scaled_from, stated or scaled_from) if isinstance(scaled_from, int) else stated


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model: those that its index names, or all of them.

    Raises:
        InputError: there are none, one is missing, or the index is damaged.
    """
    if _is_file(folder / BASE):
        do = "export the merged model: juicer export MODEL --to folder"
        raise InputError("the folder holds adapters, no whole model", where=str(folder), do=do)
    index = folder / INDEX
    single = folder / "model.safetensors"
    if _is_file(index) and not _is_file(single):
        named = read_small_json(index).get("weight_map")
        if not isinstance(named, dict) or not named or not all(isinstance(name, str) for name in named.values()):
            raise InputError("no weight_map, which names the file of each tensor", where=str(index))
        names = sorted(set(named.values()))
        for name in names:
            if Path(name).name != name:
                raise InputError(f"names {name[:100]!r}, which is not a file of this folder", where=str(index))
            if not _is_file(folder / name):
                do = f"{INDEX} names it; download the whole model"
                raise InputError("the safetensors file is missing", where=str(folder / name), do=do)
        return [folder / name for name in names]
    found = [single] if _is_file(single) else sorted(path for path in folder.glob("*.safetensors") if _is_file(path))
    if found:
        return found
    pickled = sorted(path.name for kind in PICKLED for path in folder.glob(kind))
    if pickled:
        what = f"the model folder holds no safetensors weights, only {pickled[0]}, which is pickled and can run code"
        do = "load it where you trust it and save it again: model.save_pretrained(folder, safe_serialization=True)"
        raise InputError(what, where=str(folder), do=do)
    raise InputError("the model folder holds no safetensors weights", where=str(folder))


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors in a safetensors file, from its header alone.

    Raises:
        InputError: the header is damaged, or the file has not as many bytes as its tensors; names it.
    """

    def damaged(what: str) -> InputError:
        do = "download or copy the file again; a git-LFS pointer becomes the file by: git lfs pull"
        return InputError(f"the safetensors file is damaged: {what}", where=str(path), do=do)

    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, SMALL_FILE):
            raise damaged(f"a header of {length:,} bytes in a file of {size:,}")
        text = file.read(length)
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        shapes, end = {}, 0
        for name, tensor in header.items():
            shape, (start, stop) = tuple(map(int, tensor["shape"])), tensor["data_offsets"]
            bits = BITS.get(tensor["dtype"])
            if min(shape, default=0) < 0 or not 0 <= start <= stop:
                raise damaged(f"the shape or place of {name[:100]} is negative")
            if stop > size - 8 - length:
                raise damaged(f"{name[:100]} ends {stop - (size - 8 - length):,} bytes after the file")
            if bits is not None and math.prod(shape) * bits != (stop - start) * 8:
                raise damaged(f"{name[:100]} has not as many bytes as the shape {list(shape)} needs")
            shapes[name], end = shape, max(end, stop)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise damaged("its header is not a list of tensors") from error
    if not shapes:
        raise damaged("it holds no tensor")
    return shapes


def stored_types(folder: Path) -> set[str]:
    """The types of a whole model's tensors, as torch names them: {"torch.bfloat16"}."""
    names = {"F32": "torch.float32", "BF16": "torch.bfloat16", "F16": "torch.float16"}
    found = set()
    for path in weight_files(folder):
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        header.pop("__metadata__", None)
        found |= {names.get(tensor["dtype"], str(tensor["dtype"])) for tensor in header.values()}
    return found


def _check_layers(values: dict[str, Any], shapes: dict[str, tuple[int, ...]], path: Path) -> None:
    """Raise InputError if the configuration asks for more blocks than the weights have, or for fewer."""
    found = [int(match.group(1)) for name in shapes if (match := _LAYER.search(name))]
    asked = values.get("num_hidden_layers", values.get("n_layer"))
    own = [int(match.group(1)) for name in shapes if (match := _OWN_LAYER.match(name))]
    extra = values.get("num_nextn_predict_layers") or 0
    if own and isinstance(asked, int) and isinstance(extra, int) and asked + extra < max(own) + 1:
        what = f"num_hidden_layers is {asked:,}, but the weights have {max(own) + 1} blocks"
        raise InputError(what, where=str(path), do="restore config.json, or download the model again")
    if found and isinstance(asked, int) and asked > max(found) + 1:
        what = f"num_hidden_layers is {asked:,}, but the weights have {max(found) + 1} blocks"
        raise InputError(what, where=str(path), do="download the model again")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, RuntimeError) as error:  # links in a circle
        raise InputError("a link that leads to itself", where=str(path)) from error
