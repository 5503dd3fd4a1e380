"""What the card itself reaches: a matrix product and a copy, as measured, not as its data sheet says."""

from collections.abc import Callable
from typing import Any

import torch

from bench.gpu_parts.common import Context, seconds_of


def measurements(context: Context) -> dict[str, Callable[[], dict[str, Any]]]:
    """bf16 and float32 products, and a copy inside the device's memory."""
    return {
        "matrix product, bf16": lambda: product(context, torch.bfloat16),
        "matrix product, float32": lambda: product(context, torch.float32),
        "copy": lambda: copy(context),
    }


def product(context: Context, dtype: torch.dtype) -> dict[str, Any]:
    """TFLOP/s of a square product of random numbers: zeros would be faster."""
    size = 256 if context.tiny else 8192
    left, right = (torch.randn(size, size, device=context.device, dtype=dtype) for _ in range(2))
    seconds = seconds_of(lambda: [left @ right for _ in range(10)], context.device, 3)
    return {"tflops": round(10 * 2 * size**3 / seconds / 1e12, 1), "size": size}


def copy(context: Context) -> dict[str, Any]:
    """TB/s, bytes read and bytes written together."""
    count = 2**20 if context.tiny else 2**31
    source = torch.randint(0, 255, (count,), dtype=torch.uint8, device=context.device)
    target = torch.empty_like(source)
    seconds = seconds_of(lambda: [target.copy_(source) for _ in range(10)], context.device, 3)
    return {"tb_per_second": round(10 * 2 * count / seconds / 1e12, 3), "bytes": count}
