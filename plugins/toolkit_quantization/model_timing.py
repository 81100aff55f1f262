"""How long models take for batches of the data, timed in turn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial

import torch
from torch import nn

from toolkit import Batch, Data, timing

BUDGET_S = 1.0  # for each batch size
MAX_ROUNDS = 200


def time_models(models: Mapping[str, nn.Module], data: Data, batch_sizes: Iterable[int]) -> dict[int, dict[str, float]]:
    """Return the median seconds of a call of each model, by batch size, on the first training samples.

    The models must be in eval mode. Each batch size takes about a second, and at least five rounds.
    """
    return {size: _time_at(models, data, data.example(size)) for size in batch_sizes}


def _time_at(models: Mapping[str, nn.Module], data: Data, batch: Batch) -> dict[str, float]:
    calls = {name: partial(data.task.forward, model, batch) for name, model in models.items()}
    with torch.no_grad():  # what a module creates on its first call and keeps must not come from inference mode
        for call in calls.values():
            call()
    with torch.inference_mode():
        timings = timing.time_in_turn(calls, BUDGET_S, max_rounds=MAX_ROUNDS, warm_up=True, device=data.device)
    return {name: timings.median_s(name) for name in models}
