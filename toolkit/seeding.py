"""One seed for every stage, so that a stage's randomness does not depend on what ran before it."""

from __future__ import annotations

import random

import numpy as np
import torch


def reseed(seed: int, stage: int) -> None:
    """Seed the generators of torch, numpy and Python from `(seed, stage)`."""
    first, second = np.random.SeedSequence([seed, stage]).generate_state(2)
    torch.manual_seed(int(first) << 32 | int(second))
    np.random.seed(first)
    random.seed(int(second))
