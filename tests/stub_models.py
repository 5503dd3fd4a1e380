"""Model folders that look whole from the outside, for tests that never load one."""

import json
from pathlib import Path

CONFIGURATION = {"model_type": "gpt_neox", "architectures": ["GPTNeoXForCausalLM"], "max_position_embeddings": 4096}
CLASSIFIER = {**CONFIGURATION, "architectures": ["GPTNeoXForSequenceClassification"], "id2label": {"0": "LABEL_0"}}
BEAVER = {"model_type": "llama", "architectures": ["LlamaForScore"]}


def write_stub(folder: Path, values: dict[str, object] | None = None, **changes: object) -> Path:
    """Write the small files of a model, and weights of one number; returns the folder.

    Args:
        values: of config.json; by default those of a GPT-NeoX.
        changes: further values.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**(values or CONFIGURATION), **changes}))
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": 0}}}))
    header = json.dumps({"weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    return folder
