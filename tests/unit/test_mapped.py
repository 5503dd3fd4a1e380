"""Weights that are only read leave memory while something else is computed, and are the same afterwards."""

import mmap

import torch
from safetensors.torch import load_file, save_file

from juicer.models.mapped import SMAPS, release


def resident(path):
    """Bytes of a file that this process holds in memory."""
    lines = iter(SMAPS.read_text().splitlines())
    return sum(
        int(next(line for line in lines if line.startswith("Rss:")).split()[1]) * 1024
        for line in lines
        if line.endswith(str(path))
    )


def model_of(path):
    module = torch.nn.Module()
    module.weight = torch.nn.Parameter(load_file(path)["weight"], requires_grad=False)
    return module


def test_only_unchanged_weights_are_released_and_nothing_is_lost(tmp_path):
    values = torch.arange(float(64 * mmap.PAGESIZE))
    read, changed = tmp_path / "read.safetensors", tmp_path / "changed.safetensors"
    for path in (read, changed):
        save_file({"weight": values}, path)
    one, other = model_of(read), model_of(changed)
    other.weight[7] = -1.0
    assert torch.equal(one.weight, values) and resident(read) >= values.nbytes

    assert release(one, other, torch.nn.Linear(8, 8)) >= values.nbytes
    assert resident(read) < values.nbytes / 2
    assert torch.equal(one.weight, values)
    assert other.weight[7] == -1.0 and torch.equal(other.weight[8:], values[8:])
