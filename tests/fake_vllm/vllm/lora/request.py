"""A stand-in for vllm.lora.request."""

from dataclasses import dataclass


@dataclass
class LoRARequest:
    """Names adapters."""

    lora_name: str
    lora_int_id: int
    lora_path: str
    load_inplace: bool = False
