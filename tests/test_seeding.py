"""Every stage is seeded by its number, in all three generators; what is drawn aside disturbs none of them."""

import random

import numpy as np
import pytest
import torch

from toolkit.seeding import preserve_generators, reseed


def drawn() -> tuple[float, float, float]:
    return float(torch.rand(())), float(np.random.rand()), random.random()


@pytest.mark.smoke
def test_a_stage_draws_the_same_whatever_was_drawn_before():
    reseed(3, 1)
    first = drawn()
    drawn()
    reseed(3, 1)
    assert drawn() == first


@pytest.mark.parametrize(("seed", "stage"), [(3, 2), (4, 1)])
def test_another_seed_and_another_stage_draw_something_else(seed, stage):
    reseed(3, 1)
    first = drawn()
    reseed(seed, stage)
    assert all(one != other for one, other in zip(first, drawn(), strict=True))


def test_what_is_drawn_aside_changes_nothing_even_if_it_fails():
    def fail() -> None:
        with preserve_generators():
            drawn()
            raise ZeroDivisionError

    reseed(0, 0)
    expected = drawn()
    reseed(0, 0)
    with pytest.raises(ZeroDivisionError):
        fail()
    assert drawn() == expected
