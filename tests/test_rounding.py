"""Rounding to the grids of stored weights: numbers checked by hand, gradients, and what is refused."""

import pytest
import torch

from toolkit.errors import ToolkitError
from toolkit.rounding import round_straight_through, round_to

DTYPES = ["int8", "int4", "int2", "float16", "bfloat16"]


def test_int8_has_127_steps_to_the_largest_value_of_each_row():
    rounded = round_to(torch.tensor([[127.0, -0.6, 0.4], [-254.0, 3.1, 0.0]]), "int8")
    assert rounded.tolist() == [[127.0, -1.0, 0.0], [-254.0, 4.0, 0.0]]


def test_int4_reaches_from_minus_eight_to_seven_in_the_direction_of_the_largest_value():
    assert round_to(torch.tensor([[-8.0, 7.0, 1.4, 8.0]]), "int4").tolist() == [[-8.0, 7.0, 1.0, 7.0]]
    assert round_to(torch.tensor([[8.0, -7.0, 1.4, 0.6]]), "int4").tolist() == [[8.0, -7.0, 1.0, 1.0]]


def test_int4_has_a_scale_for_each_group_of_inputs():
    weight = torch.tensor([[8.0, 1.0, 80.0, 11.0]])
    assert round_to(weight, "int4").tolist() == [[10.0, 0.0, 80.0, 10.0]]
    assert round_to(weight, "int4", group=2).tolist() == [[8.0, 1.0, 80.0, 10.0]]
    wide = torch.cat((torch.full((1, 33), 2.0), torch.tensor([[80.0]])), 1)
    assert round_to(wide, "int4").tolist() == [[2.0] * 32 + [0.0, 80.0]]
    assert round_to(wide, "int4", group=0).tolist() == [[0.0] * 33 + [80.0]]


def test_int2_reaches_from_minus_two_to_one_in_the_direction_of_the_largest_value():
    weight = torch.tensor([[8.0, -4.0, -8.0, 1.9, 2.1]])
    assert round_to(weight, "int2").tolist() == [[8.0, -4.0, -4.0, 0.0, 4.0]]
    assert round_to(weight, "int2", group=4).tolist() == [[8.0, -4.0, -4.0, 0.0, 2.09375]]


def test_sixteen_bits():
    weight = torch.tensor([[1.0 + 2**-9]])
    assert round_to(weight, "float16").item() == 1.0 + 2**-9
    assert round_to(weight, "bfloat16").item() == 1.0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(5, 33), (6, 4, 3, 3)])
def test_what_is_rounded_stays_where_it_is(dtype, shape):
    rounded = round_to(torch.randn(shape), dtype)
    assert torch.allclose(round_to(rounded, dtype), rounded, rtol=1e-2)
    assert rounded.shape == shape


@pytest.mark.parametrize("dtype", DTYPES)
def test_straight_through_has_the_same_bits_and_the_gradient_of_the_identity(dtype):
    weight = torch.randn(4, 40, requires_grad=True)
    rounded = round_straight_through(weight, dtype)
    assert torch.equal(rounded, round_to(weight, dtype))
    assert not round_to(weight, dtype).requires_grad
    factor = torch.randn(4, 40)
    (rounded * factor).sum().backward()
    assert torch.equal(weight.grad, factor)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((torch.ones(2, 2), "int3"), "dtype must be int8, int4, int2, float16 or bfloat16, found 'int3'"),
        (
            (torch.ones(2), "int8"),
            r"a weight to round must have float values and two or more dimensions, found \(2,\) of float32",
        ),
        ((torch.ones(2, 2, dtype=torch.int64), "int8"), r"float values .*, found \(2, 2\) of int64"),
        ((torch.ones(2, 2), "int4", 3), "group must be a multiple of 2 or 0 in int4, found 3"),
        ((torch.ones(2, 2), "int2", 6), "group must be a multiple of 4 or 0 in int2, found 6"),
    ],
)
def test_what_is_refused(arguments, sentence):
    with pytest.raises(ToolkitError, match=sentence):
        round_to(*arguments)
