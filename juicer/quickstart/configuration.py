"""The config.json of a model, without its weights: read it, or shrink it to a tiny model of the same architecture."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from juicer.models.folder import check_values, read_small_json
from juicer.runtime.errors import InputError
from juicer.settings.tiny import TinySettings

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def read_config(path: Path) -> tuple[str, "PretrainedConfig"]:
    """A model's configuration, from a config.json.

    Returns:
        the name of its architecture, for example "GPTNeoXForCausalLM", and the configuration.

    Raises:
        InputError: the file is missing, is not valid JSON, or names no architecture.
    """
    from transformers import AutoConfig

    values = read_small_json(path)
    check_values(values, str(path))
    if not values.get("architectures") or "model_type" not in values:
        raise InputError("not a model's config.json: no architectures or no model_type", where=str(path))
    kind = values.pop("model_type")
    try:
        return str(values["architectures"][0]), AutoConfig.for_model(kind, **values)
    except Exception as error:  # whatever a configuration makes its own code raise
        reason = " ".join(str(error).split())[:300]
        what = f"transformers cannot read the configuration: {type(error).__name__}: {reason}"
        raise InputError(what, where=str(path), do="compare it with the model's original config.json") from error


def shrunk(config: "PretrainedConfig", settings: TinySettings, vocabulary: int, context: int) -> dict[str, Any]:
    """The sizes of a tiny configuration; all other values stay those of the real one."""
    heads = settings.heads
    sizes: dict[str, Any] = {
        "hidden_size": settings.hidden_size,
        "intermediate_size": 4 * settings.hidden_size,
        "num_hidden_layers": settings.layers,
        "num_attention_heads": heads,
        "vocab_size": vocabulary,
        "max_position_embeddings": context,
    }
    if (shared := getattr(config, "num_key_value_heads", None)) is not None:
        sizes["num_key_value_heads"] = max(1, heads * shared // config.num_attention_heads)
    if getattr(config, "head_dim", None) is not None:
        sizes["head_dim"] = settings.hidden_size // heads
    return sizes
