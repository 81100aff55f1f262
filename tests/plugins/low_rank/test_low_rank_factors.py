"""The factors of low rank, compared with `torch.linalg.svd` and with what they replace."""

from typing import Any

import pytest
import torch
from toolkit_low_rank.factors import (
    input_matrix,
    kept_energy,
    matrix_factors,
    output_matrix,
    rank_of_energy,
    root,
    spectrum,
    tucker_energy,
    tucker_factors,
)
from toolkit_low_rank.layers import Candidate, Use, factored
from toolkit_low_rank.moments import rows_of
from toolkit_low_rank.ranks import Decomposition
from torch import Tensor, nn


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def decomposed(layer: Any, moment: Tensor | None = None) -> Decomposition:
    return Decomposition.of(Candidate("layer", layer, Use(1, 1)), moment)


def full_ranks(layer: Any) -> tuple[int, ...]:
    return decomposed(layer).ranks_of_share(1.0)


@pytest.mark.parametrize("shape", [(6, 9), (9, 6)])
def test_the_error_of_a_matrix_is_the_singular_values_that_are_left_out(shape: tuple[int, int]) -> None:
    weight = drawn(*shape).double()
    values = torch.linalg.svd(weight).S
    for rank in range(1, 7):
        first, second = matrix_factors(weight, spectrum(weight).basis[:, :rank])
        assert first.shape == (rank, shape[1])
        assert second.shape == (shape[0], rank)
        torch.testing.assert_close((weight - second @ first).square().sum(), values[rank:].square().sum())


def test_the_vectors_of_both_factors_have_the_same_length() -> None:
    first, second = matrix_factors(drawn(5, 7), spectrum(drawn(5, 7)).basis[:, :3])
    torch.testing.assert_close(first.norm(dim=1), second.norm(dim=0))


def test_a_kernel_loses_no_more_than_both_of_its_matrices_do() -> None:
    weight = drawn(6, 5, 3, 3).double()
    inputs, outputs = spectrum(input_matrix(weight)), spectrum(output_matrix(weight))
    first, core, last = tucker_factors(weight, inputs.basis[:, :3], outputs.basis[:, :4])
    assert (first.shape, core.shape, last.shape) == ((3, 5), (4, 3, 3, 3), (6, 4))
    rebuilt = torch.einsum("ri,srhw,os->oihw", first, core, last)
    lost = float((weight - rebuilt).square().sum())
    assert 0 < lost <= float(inputs.squares[3:].sum() + outputs.squares[4:].sum())
    assert tucker_energy(inputs, outputs, (3, 4)) == pytest.approx(1 - lost / float(weight.square().sum()))


def test_the_rank_of_an_energy_is_the_smallest_that_has_it() -> None:
    squares = torch.tensor([6.0, 3.0, 1.0, 0.0], dtype=torch.float64)
    assert [rank_of_energy(squares, energy) for energy in (0.0, 0.6, 0.61, 0.9, 0.95, 1.0)] == [1, 1, 2, 2, 3, 3]
    assert [kept_energy(squares, rank) for rank in (1, 2, 3)] == [0.6, 0.9, 1.0]
    assert rank_of_energy(torch.zeros(3), 0.9) == 1
    assert kept_energy(torch.zeros(3), 1) == 1


LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "linear": (nn.Linear(6, 9), (4, 6)),
    "linear without bias": (nn.Linear(9, 6, bias=False), (4, 3, 9)),
    "1x1": (nn.Conv2d(6, 4, 1, stride=2, padding=1), (2, 6, 7, 7)),
    "3x3": (nn.Conv2d(4, 6, 3, stride=2, padding=1, padding_mode="reflect"), (2, 4, 9, 9)),
    "3x3 dilated": (nn.Conv2d(4, 6, (3, 1), dilation=2, padding="same"), (2, 4, 9, 9)),
    "1d": (nn.Conv1d(4, 6, 5, padding=2), (2, 4, 9)),
    "3d": (nn.Conv3d(3, 4, 2), (2, 3, 4, 4, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_factors_of_full_rank_compute_what_the_layer_does(name: str) -> None:
    layer: Any
    layer, shape = LAYERS[name]
    before = layer(drawn(*shape))
    rows = drawn(20, layer.weight.shape[1], seed=2)
    moment = rows.T @ rows
    for decomposition in (decomposed(layer), decomposed(layer, moment.double())):
        new = factored(layer, decomposition.factors(full_ranks(layer)))
        torch.testing.assert_close(new(drawn(*shape)), before, rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_kernel_of_full_rank_on_one_side_has_two_factors() -> None:
    layer, inputs = nn.Conv2d(2, 8, 3, padding=1), drawn(2, 2, 5, 5)
    whole = decomposed(layer)
    for ranks, shapes in (((2, 5), [(5, 2, 3, 3), (8, 5, 1, 1)]), ((1, 8), [(1, 2, 1, 1), (8, 1, 3, 3)])):
        new: Any = factored(layer, whole.factors(ranks))
        assert [part.weight.shape for part in new] == shapes
        assert sum(whole.candidate.sizes(ranks)) == sum(part.weight.numel() for part in new)
        lost = float((new(inputs) - layer(inputs)).square().sum())
        assert 0 < lost < float(layer(inputs).square().sum())


@pytest.mark.parametrize("name", ["linear", "linear without bias", "1x1"])
@torch.no_grad()
def test_with_the_inputs_moment_outputs_are_no_further_off(name: str) -> None:
    layer, shape = LAYERS[name]
    inputs = drawn(*shape) * torch.linspace(0.01, 3, shape[1 if "1x1" in name else -1]).view(
        (-1, 1, 1) if "1x1" in name else (-1,)
    )
    rows = rows_of(layer, inputs).double()
    errors = {}
    for kind, moment in (("plain", None), ("aware", rows.T @ rows)):
        new = factored(layer, decomposed(layer, moment).factors((2,)))
        errors[kind] = float((new(inputs) - layer(inputs)).square().sum())
    assert errors["aware"] < errors["plain"]


@pytest.mark.parametrize("padding", [0, 1, 2, "valid"])
@torch.no_grad()
def test_a_1x1_convolution_receives_what_lies_where_it_is_applied(padding: Any) -> None:
    layer, inputs = nn.Conv2d(3, 3, 1, stride=3, padding=padding, bias=False), drawn(2, 3, 8, 7)
    layer.weight.copy_(torch.eye(3).view(3, 3, 1, 1))
    wanted = layer(inputs).movedim(1, -1).flatten(0, -2)
    rows = rows_of(layer, inputs)
    torch.testing.assert_close(rows.T @ rows, wanted.T @ wanted)


def test_inputs_that_are_always_zero_keep_their_weights_at_full_rank() -> None:
    rows = drawn(50, 4) * torch.tensor([1.0, 1.0, 0.0, 0.0])
    weight = drawn(9, 4, seed=1)
    basis = spectrum(weight.double() @ root(rows.T @ rows)).basis
    first, second = matrix_factors(weight, basis)
    torch.testing.assert_close((second @ first).float(), weight, rtol=0, atol=1e-5)
