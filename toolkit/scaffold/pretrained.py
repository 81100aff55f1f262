"""Whether a source builds a network that is trained already."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from toolkit.recipe.tables import ModelTable
from toolkit.seeding import preserve_generators


def why_pretrained(table: ModelTable) -> str | None:
    """Return what shows that a model is trained, None if nothing does: a file, or equal weights at every seed.

    A network that is not trained draws its matrices and filters at random; scales, shifts and encodings of positions
    begin with constants.
    """
    if table.weights is not None:
        return "the model has the weights of a file"
    first, second = (_state(table, seed) for seed in (1, 2))
    learned = {name: tensor for name, tensor in first.items() if _is_learned(tensor)}
    same = sum(tensor.numel() for name, tensor in learned.items() if torch.equal(tensor, second[name]))
    is_pretrained = 2 * same > sum(tensor.numel() for tensor in learned.values())
    return "the model has most of its weights at every seed" if is_pretrained else None


def _state(table: ModelTable, seed: int) -> dict[str, Tensor]:
    with preserve_generators():
        torch.manual_seed(seed)
        return dict(table.build().named_parameters())


def _is_learned(tensor: Tensor) -> bool:
    is_matrix = not is_lazy(tensor) and tensor.requires_grad and tensor.dim() > 1 and tensor.numel() > 1
    return is_matrix and bool(tensor.min() != tensor.max())
