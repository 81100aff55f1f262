"""The gradual schedule: after which training steps to prune, and to which sparsity."""

from __future__ import annotations

from toolkit_pruning.params import Params
from toolkit_pruning.ranking import cubic_sparsity


def last_step(steps: int, params: Params) -> int:
    """Return the step after which the sparsity is reached."""
    return max(1, round(params.schedule_end * steps))


def sparsity_due(step: int, steps: int, initial: float, params: Params) -> float | None:
    """Return the sparsity to prune to after a step, None where the step prunes nothing."""
    last = last_step(steps, params)
    if step > last or (step < last and step % params.steps_between):
        return None
    return cubic_sparsity(step / last, initial, params.sparsity)
