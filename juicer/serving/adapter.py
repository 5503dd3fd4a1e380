"""The difference between a model and the one it was trained from, as a LoRA adapter that peft loads.

A model that is kept as adapters has its difference from its base model already. Of merged models what LoRA added to a
matrix has at most its rank, so it is found again as the singular value decomposition of the difference. Full training
changes every matrix in every direction, and such a difference is refused: cut to a low rank it would be another model.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from juicer.models.adapters import Adapter
from juicer.models.folder import check_folder, weight_files
from juicer.runtime.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOLERANCE = 0.01
"""Largest norm of what the adapter leaves of a matrix's difference, relative to the difference (Frobenius). LoRA leaves
what rounding to float32 leaves, some 1e-4 of a small difference and less of a large one."""
WHOLE = 1024
"""Matrices with a side of at most this are decomposed whole; larger ones at growing ranks, by random projections."""


def difference(model: Path, base: Path) -> Adapter:
    """The adapter that makes `base` into `model`, both of which hold whole models.

    Raises:
        InputError: the two have other shapes, are the same, or differ by more than low-rank changes of linear layers;
            says by how much.
    """
    shapes, others = check_folder(model), check_folder(base)
    for name in sorted(set(shapes) ^ set(others)) or [n for n in shapes if shapes[n] != others[n]]:
        what = f"the tensor {name} is not in both, or has another shape"
        raise InputError(what, where=f"{model} and {base}", do="name a model that it was trained from: --base MODEL")
    layers, transposed = _linear_layers(model)
    found, whole, changed = Adapter(transposed=transposed), [], []
    for name, after, before in _tensors(model, base):
        if torch.equal(after, before):
            continue
        changed.append(name)
        layer = layers.get(name)
        change = after.float() - before.float()
        factors = _factors(change.T if transposed else change) if layer is not None else None
        if layer is None or factors is None:
            whole.append(name)
            continue
        found.factors[layer] = factors[:2]
        found.error = max(found.error, factors[2])
    if not changed:
        raise InputError("the two models are the same: there is no difference", where=f"{model} and {base}")
    if whole:
        _refuse(model, base, whole, changed, {name: (layers.get(name), transposed) for name in whole})
    return found


def _factors(change: Tensor) -> tuple[Tensor, Tensor, float] | None:
    """A, B and the error of the lowest rank that leaves at most TOLERANCE; None if no low rank does.

    A rank is low if A and B together have at most half the numbers of the matrix.
    """
    rows, columns = change.shape
    most, norm = rows * columns // (2 * (rows + columns)), float(change.double().norm())
    rank = min(rows, columns) if min(rows, columns) <= WHOLE else 32
    while True:
        left, values, right = _decomposed(change, min(rank, rows, columns))
        rest = (norm**2 - values.double().square().cumsum(0)).clamp(min=0).sqrt() / norm
        enough = (rest <= TOLERANCE / 2).nonzero()
        if len(enough) or rank >= min(most, rows, columns):
            break
        rank *= 2
    own = int(enough[0]) + 1 if len(enough) else most + 1
    if own > most:
        return None
    # Below the rank of the difference, what more singular values would add is rounding.
    gap = _rank_of(values)
    own = max(own, min(gap, most))
    scale = values[:own].sqrt()
    b, a = left[:, :own] * scale, scale[:, None] * right[:own]
    error = float((change.double() - b.double() @ a.double()).norm()) / norm
    return (a, b, error) if error <= TOLERANCE else None


def _rank_of(values: Tensor) -> int:
    """The number of singular values that are more than rounding: those before the largest drop, if that is steep."""
    floor = values[0] * 1e-7
    ratios = values[:-1].clamp(min=floor) / values[1:].clamp(min=floor)
    if not len(ratios) or float(ratios.max()) < 10:
        return 1
    return int(ratios.argmax()) + 1


def _decomposed(change: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """U (rows, rank), the singular values, largest first, and V' (rank, columns)."""
    if rank == min(change.shape):
        left, values, right = torch.linalg.svd(change, full_matrices=False)
        return left, values, right
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        left, values, right = torch.svd_lowrank(change, q=rank, niter=4)
    return left, values, right.T


def _refuse(
    model: Path, base: Path, whole: list[str], changed: list[str], how: Mapping[str, tuple[str | None, bool]]
) -> None:
    """Raise the InputError for a difference that is not low-rank; says how large the rest of one matrix is."""
    linear = [name for name in whole if how[name][0] is not None]
    shown, rest = (linear or whole)[0], ""
    if linear:
        after, before = next((a, b) for name, a, b in _tensors(model, base) if name == shown)
        change = after.float() - before.float()
        rows, columns = change.shape
        most = max(1, rows * columns // (2 * (rows + columns)))
        _, values, _ = _decomposed(change, min(most, rows, columns))
        norm = float(change.double().norm())
        left = max(0.0, 1 - float(values[:most].double().square().sum()) / norm**2) ** 0.5
        rest = f": rank {most} leaves {left:.0%} of the change of {shown}"
    else:
        rest = f": {shown}, for example, is no matrix of a linear layer"
    what = f"the difference is not low-rank in {len(whole)} of {len(changed)} changed tensors{rest}"
    do = "it was not trained with LoRA, or not from this model alone; take it whole: --to folder"
    raise InputError(what, where=f"{model} and {base}", do=do)


def _tensors(model: Path, base: Path) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Name and both tensors, one after another, without loading a whole model."""
    from safetensors import safe_open

    with ExitStack() as opened:
        files = [opened.enter_context(safe_open(path, framework="pt")) for path in weight_files(base)]
        places = {name: file for file in files for name in file.keys()}  # noqa: SIM118 -- it is no mapping
        for path in weight_files(model):
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118
                    yield name, file.get_tensor(name), places[name].get_tensor(name)


def _linear_layers(folder: Path) -> tuple[dict[str, str], bool]:
    """The linear layer of each weight in the files that is one's, and whether they are stored transposed."""
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.pytorch_utils import Conv1D

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    kinds = {name: type(each) for name, each in model.named_modules() if isinstance(each, torch.nn.Linear | Conv1D)}
    head = model.get_output_embeddings()
    own = {name for name, each in model.named_modules() if each is not head and name in kinds}
    return {f"{name}.weight": name for name in own}, Conv1D in kinds.values()
