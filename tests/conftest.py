"""What all tests share: one thread, because the models are small, and one seed."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _seeded():
    torch.set_num_threads(1)
    torch.manual_seed(0)
