"""Group lasso: fine-tuning that pushes whole output channels towards zero, so that they could be taken out.

Wen et al., "Learning structured sparsity in deep neural networks", 2016: the loss grows by strength times the sum
over all channels of the norm of a channel's weights, times the root of their number.
"""

import torch
from pydantic import Field
from torch import Tensor, nn

import toolkit
from toolkit import masks

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Params(toolkit.Params):
    """How strongly channels are pushed."""

    strength: float = Field(default=1e-3, ge=0, le=1, description="weight of the regularizer in the loss")
    small: float = Field(default=1e-2, gt=0, lt=1, description="a channel below this share of the largest is counted")

    @property
    def needs_finetune(self) -> bool:
        """It is a term of the loss, and without training nothing."""
        return True


def group_lasso(weight: Tensor) -> Tensor:
    """The sum of the norms of the rows of (channels, …), times the root of a row's size: a scalar."""
    rows = weight.flatten(1)
    # Not the plain norm, whose gradient at zero, where masked rows are, is not a number.
    return (rows.square().sum(1) + 1e-12).sqrt().sum() * rows.shape[1] ** 0.5


def channels(model: nn.Module) -> list[masks.Weight]:
    """The weights that have output channels, each once."""
    found = (w for w in masks.named_weights(model) if w.attribute == "weight" and isinstance(w.module, LAYERS))
    return list({id(weight.parameter): weight for weight in found}.values())


@toolkit.hookimpl
def finetune(model, params, training):
    """Add the regularizer to the loss."""
    weights = channels(model)
    if not weights:
        raise toolkit.TechniqueError("the model has no linear or convolutional layer with channels to push")

    def loss(outputs, batch):
        # As the layer sees it: a masked weight has its zeros, and the gradient passes.
        terms = [group_lasso(getattr(weight.module, weight.attribute)) for weight in weights]
        return training.loss(outputs, batch) + params.strength * torch.stack(terms).sum()

    return training.using(loss=loss)


@toolkit.hookimpl
def measure(model, params):
    """`small_channels`: the share of channels that are small against the largest one of their layer."""
    norms = [weight.value.flatten(1).norm(dim=1) for weight in channels(model)]
    small = sum(int((norm < params.small * norm.max()).sum()) for norm in norms)
    return {"small_channels": small / max(1, sum(map(len, norms)))}
