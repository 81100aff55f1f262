"""Factors of low rank: tensors in, tensors out.

A matrix (outputs, inputs) becomes two factors, by its singular value decomposition. The kernel of a convolution becomes
three by Tucker-2, the higher-order decomposition along inputs and outputs (Kim et al. 2016). With the second moment of
the inputs, singular values measure errors of the outputs instead of the weights (Yuan et al. 2023, Wang et al. 2024).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

DAMPING = 1e-6  # of the mean square of an input; inputs that are always zero would have no weights left
SLACK = 1e-12  # in the sum of squares: at an energy of one, rounding must not add a rank


class Spectrum(NamedTuple):
    """The left singular vectors of a matrix (rows, k), and its squared singular values (k,), the largest first."""

    basis: Tensor
    squares: Tensor


def spectrum(matrix: Tensor) -> Spectrum:
    """Return the spectrum of a matrix (rows, columns), in float64."""
    basis, values, _ = torch.linalg.svd(matrix.double(), full_matrices=False)
    return Spectrum(basis, values.square())


def root(moment: Tensor) -> Tensor:
    """Return L with L @ L.T equal to a second moment (inputs, inputs), a little damped."""
    damping = DAMPING * float(moment.diagonal().mean()) or 1.0
    return torch.linalg.cholesky(moment.double() + damping * torch.eye(len(moment), dtype=torch.float64).to(moment))


def rank_of_energy(squares: Tensor, energy: float) -> int:
    """Return the smallest rank, at least 1, whose singular values have this share of the sum of squares."""
    total = float(squares.sum())
    lost = total - squares.cumsum(0)
    enough = lost <= (1 - energy + SLACK) * total
    return int(enough.int().argmax()) + 1


def kept_energy(squares: Tensor, rank: int) -> float:
    """Return the share of the sum of squares that the first singular values have; 1 for a matrix of zeros."""
    total = float(squares.sum())
    return float(squares[:rank].sum()) / total if total else 1.0


def matrix_factors(weight: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """Return the factors (rank, inputs) and (outputs, rank) of a weight that is projected to a basis of its outputs.

    With the left singular vectors of the weight, the product is its best approximation of this rank (Eckart and Young
    1936). Both factors have vectors of the same length, so that they train at the same pace.
    """
    first = basis.T @ weight.double()
    length = first.norm(dim=1).sqrt().clamp(min=torch.finfo(torch.float32).tiny)
    return first / length[:, None], basis * length


def tucker_factors(weight: Tensor, inputs: Tensor | None, outputs: Tensor | None) -> tuple[Tensor, ...]:
    """Return the factors of a kernel (outputs, inputs, *size): of its inputs, its core, and of its outputs.

    Args:
        weight: kernel.
        inputs: basis (outputs * size, input rank) of `input_matrix`, None to leave the inputs without a factor.
        outputs: basis (outputs, output rank) of `output_matrix`, None to leave the outputs without a factor.

    Returns:
        (input rank, inputs), (output rank, input rank, *size) and (outputs, output rank).
    """
    before, core, after = [], weight.double(), []
    if inputs is not None:
        first, core = matrix_factors(input_matrix(core), inputs)
        core = core.reshape(weight.shape[0], *weight.shape[2:], -1).movedim(-1, 1)
        before = [first]
    if outputs is not None:
        middle, last = matrix_factors(core.flatten(1), outputs)
        core, after = middle.reshape(-1, *core.shape[1:]), [last]
    return (*before, core, *after)


def tucker_energy(inputs: Spectrum, outputs: Spectrum, ranks: tuple[int, ...]) -> float:
    """Return the share of a kernel's sum of squares that factors of an input and an output rank keep."""
    total = float(inputs.squares.sum())
    projected = inputs.basis[:, : ranks[0]] * inputs.squares[: ranks[0]].sqrt()
    core = outputs.basis[:, : ranks[1]].T @ projected.reshape(len(outputs.basis), -1)
    return float(core.square().sum()) / total if total else 1.0


def input_matrix(weight: Tensor) -> Tensor:
    """Return a kernel (outputs, inputs, *size) as a matrix (outputs * size, inputs)."""
    return weight.movedim(1, -1).flatten(0, -2)


def output_matrix(weight: Tensor, root: Tensor | None = None) -> Tensor:
    """Return a kernel as a matrix (outputs, inputs * size); its inputs are multiplied by `root` (inputs, inputs)."""
    if root is not None:
        weight = (weight.double().movedim(1, -1) @ root).movedim(-1, 1)
    return weight.flatten(1)
