"""A stand-in for vllm.lora."""
