"""The identity of data: equal values have one, whatever their dtype, and however they lie in memory."""

import pytest
import torch
from torch import Tensor

from toolkit.data.splits import Data
from toolkit.storage.identity import data_fingerprint

NUMBERS = torch.tensor([[1 + 2j], [3 - 4j]])


def fingerprint(inputs: Tensor) -> str | None:
    return data_fingerprint(Data(train=(inputs, torch.tensor([0, 1]))))["train"]


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16, torch.complex64])
def test_one_value_makes_other_data(dtype: torch.dtype) -> None:
    inputs = torch.ones(2, 3).to(dtype)
    other = torch.tensor([[1, 1, 1], [1, 1, 2]]).to(dtype)
    assert fingerprint(inputs) == fingerprint(inputs.clone()) != fingerprint(other)


@pytest.mark.parametrize("inputs", [NUMBERS.conj(), NUMBERS.conj().imag], ids=["conjugates", "negatives"])
def test_views_that_torch_computes_later_are_their_values(inputs: Tensor) -> None:
    assert fingerprint(inputs) == fingerprint(torch.tensor(inputs.tolist()))
    assert fingerprint(inputs) != fingerprint(NUMBERS)
