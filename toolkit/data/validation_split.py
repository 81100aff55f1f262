"""The validation split that is cut from train where the data has none."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch

from toolkit.data.batches import take
from toolkit.data.splits import Data

log = logging.getLogger("toolkit")

MAX_DEFAULT_VALIDATION_SAMPLES = 5_000


def with_validation(data: Data, samples: int | None) -> Data:
    """Return `data` with a validation split cut from train; data that already has one is returned unchanged.

    The split is drawn by a fixed permutation that does not depend on the recipe's seed, so runs with different seeds
    make their decisions on the same samples.

    Args:
        data: data with at least a train split.
        samples: size of the validation split; a tenth of train and at most 5,000 by default, 0 for none.

    Raises:
        ValueError: no samples would remain to train on.
    """
    if data.validation is not None or samples == 0:
        return data
    total = data.samples("train")
    samples = samples or min(total // 10, MAX_DEFAULT_VALIDATION_SAMPLES)
    if samples == 0:
        log.warning("%d training samples are too few for a validation split; set `[data] validation` to cut one", total)
        return data
    if samples >= total:
        raise ValueError(f"`validation` must be less than the number of training samples ({total}), found {samples}")
    order = torch.randperm(total, generator=torch.Generator().manual_seed(0))
    held_out, remaining = order[:samples].sort().values, order[samples:].sort().values
    return replace(data, train=take(data.train, remaining), validation=take(data.train, held_out))
