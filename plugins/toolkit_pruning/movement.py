"""Movement pruning: scores that are trained with the weights decide which of them go.

As in Sanh et al., "Movement pruning: adaptive sparsity by fine-tuning", 2020: a score falls where the gradient draws
its weight towards zero. The gradient passes the mask straight through, so that a weight that has gone can come back
until the schedule ends.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

import toolkit
from toolkit import masks
from toolkit_pruning.mask_choice import choose
from toolkit_pruning.params import Params
from toolkit_pruning.schedule import last_step, sparsity_due
from toolkit_pruning.scores import weights_of


class LearnedScores(nn.Module):
    """A weight times its mask, and the scores that choose the mask, with the gradient that they have without it."""

    kept: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.zeros_like(weight, dtype=torch.float32))
        self.register_buffer("kept", torch.ones_like(weight))

    def forward(self, weight: Tensor) -> Tensor:
        straight_through = self.scores - self.scores.detach()
        return weight * (self.kept + straight_through.to(weight.dtype))


def learning_scores(
    model: nn.Module, layers: Sequence[str], params: Params, initial: float, training: toolkit.Training
) -> toolkit.Training:
    """Return the training with scores trained along, which prune to the sparsity that the schedule says.

    The model is masked when the schedule ends; until then, only the training steps see the masks.
    """
    weights = weights_of(model, layers)
    learned = {layer: LearnedScores(weight.value) for layer, weight in weights.items()}

    def tighten(step: int, steps: int) -> None:
        sparsity = sparsity_due(step, steps, initial, params)
        if sparsity is None:
            return
        scores = {layer: module.scores.detach() for layer, module in learned.items()}
        chosen = choose(model, scores, params, sparsity)
        for layer, module in learned.items():
            module.kept.copy_(chosen[weights[layer].path])
        if step == last_step(steps, params):
            masks.apply(model, chosen)

    for layer, module in learned.items():
        along = toolkit.TrainedAlong(module, lr=params.scores_lr, weight_decay=0.0)
        training = training.using(weights={weights[layer].path: module}, trained_along=along)
    return training.using(after_step=tighten)
