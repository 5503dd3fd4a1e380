"""What merging adapters into weights of bf16 loses: the relative error of a difference that is added and rounded.

    python -m bench.merging                                # a second

Random matrices: weights of standard deviation 0.02, differences of several.
"""

import argparse

import torch
from torch import Tensor

SIZE, WEIGHT, DIFFERENCES = 1024, 0.02, (1e-3, 1e-4, 2e-5, 5e-6)


def lost(weight: Tensor, difference: Tensor) -> float:
    """Norm of what is missing of a difference after it was added to weights in bf16, relative to the difference's."""
    merged = (weight.float() + difference).to(weight.dtype)
    return float((merged.float() - weight.float() - difference).norm() / difference.norm())


def main() -> None:
    """Print the errors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    weight = (WEIGHT * torch.randn(SIZE, SIZE, generator=generator)).bfloat16()
    for deviation in DIFFERENCES:
        difference = deviation * torch.randn(SIZE, SIZE, generator=generator)
        print(f"difference of standard deviation {deviation:g}: relative error {lost(weight, difference):.2f}")


if __name__ == "__main__":
    main()
