"""Random generators, seeded for each stage so that its randomness does not depend on the stages before it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def reseed(seed: int, stage: int) -> None:
    """Seed the generators of torch, NumPy and Python from `(seed, stage)`."""
    first, second = np.random.SeedSequence([seed, stage]).generate_state(2)
    torch.manual_seed(int(first) << 32 | int(second))
    np.random.seed(first)
    random.seed(int(second))


@contextmanager
def preserve_generators() -> Iterator[None]:
    """Restore the state of the generators of torch (of CUDA devices, too), NumPy and Python on exit."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    of_cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        torch.cuda.set_rng_state_all(of_cuda)
        np.random.set_state(states[1])
        random.setstate(states[2])
