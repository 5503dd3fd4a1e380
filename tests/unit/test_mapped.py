"""Weights that are only read leave memory while something else is computed, and are the same afterwards."""

import mmap

import torch
from safetensors.torch import load_file, save_file

from juicer.models import mapped
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


def test_changes_that_are_swapped_out_are_not_lost(tmp_path, monkeypatch):
    lines = "{}-{} rw-p 00000000 08:01 7 /m.safetensors\nRss: 8 kB\nAnonymous: {} kB\nSwap: {} kB\nSwapPss: 0 kB\n"
    monkeypatch.setattr(mapped, "SMAPS", tmp_path / "smaps")
    mapped.SMAPS.write_text("".join(lines.format(*each) for each in ((1, 2, 0, 0), (3, 4, 4, 0), (5, 6, 0, 4))))
    assert list(mapped._unchanged_files()) == [(1, 2)]
