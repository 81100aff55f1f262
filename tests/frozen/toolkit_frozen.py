"""Frozen: a technique that uses all there was in version 0.1. It is never edited; it has to work with every later one.

It masks the smallest weights of each layer, adds a penalty to the loss, and measures what came of it.
"""

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

import toolkit
from toolkit import masks


class Params(toolkit.Params):
    """All kinds of settings."""

    sparsity: float = Field(default=0.25, ge=0, lt=1, description="share of each weight that becomes zero")
    penalty: float = Field(default=1e-4, ge=0, description="weight of the squared norm in the loss")
    helper: toolkit.Source | None = Field(default=None, description="a model whose outputs are compared")

    @property
    def replaces_model(self) -> bool:
        """The model stays."""
        return False

    @property
    def trainable_after(self) -> bool:
        """It can be trained."""
        return True

    @property
    def needs_finetune(self) -> bool:
        """It masks without training, too."""
        return False


class Penalized(nn.Module):
    """A loss that wraps the one it was given."""

    def __init__(self, inner: Any, model: nn.Module, weight: float) -> None:
        super().__init__()
        self.inner, self.weight = inner, weight
        self.parameters_of = list(model.parameters())

    def forward(self, outputs: Any, batch: toolkit.Batch) -> Tensor:
        norm = torch.stack([parameter.square().sum() for parameter in self.parameters_of]).sum()
        return self.inner(outputs, batch) + self.weight * norm


def mask_of(weight: Tensor, sparsity: float) -> Tensor:
    """False for the smallest entries."""
    count = round(sparsity * weight.numel())
    mask = torch.ones(weight.numel(), dtype=torch.bool)
    mask[weight.flatten().abs().argsort(stable=True)[:count]] = False
    return mask.view(weight.shape)


@toolkit.hookimpl
def prepare(model: nn.Module, params: Params, data: toolkit.Data, reference: nn.Module) -> dict[str, Any]:
    """Look at everything that is given."""
    if not list(masks.named_weights(model)):
        raise toolkit.TechniqueError("the model has no weights")
    helper = params.helper.build().to(data.device).eval() if params.helper is not None else masks.clone(reference)
    batch = data.example(4)
    assert data.test is None
    assert data.samples("train") > 0
    with torch.no_grad():
        return {"helper": helper, "outputs": data.task.logits(data.task.forward(helper.eval(), batch)), "steps": []}


@toolkit.hookimpl
def optimize(model: nn.Module, params: Params, data: toolkit.Data, prepared: dict[str, Any]) -> nn.Module:
    """Mask."""
    weights = [weight for weight in masks.named_weights(model) if weight.value.dim() > 1]
    masks.apply(model, {weight.path: mask_of(weight.value, params.sparsity) for weight in weights})
    assert masks.current(model)
    return model


@toolkit.hookimpl
def finetune(
    model: nn.Module, params: Params, data: toolkit.Data, prepared: dict[str, Any], training: toolkit.Training
) -> toolkit.Training:
    """Everything that a training takes."""

    def count(step: int, steps: int) -> None:
        assert 1 <= step <= steps
        prepared["steps"].append(step)

    return training.using(
        loss=Penalized(training.loss, model, params.penalty), after_step=count, trained_along=nn.Linear(1, 1)
    )


@toolkit.hookimpl
def measure(
    model: nn.Module, params: Params, data: toolkit.Data, prepared: dict[str, Any]
) -> dict[str, float | toolkit.Note]:
    """Numbers and a note with a table."""
    shares = {weight.path: float((weight.value == 0).float().mean()) for weight in masks.named_weights(model)}
    batches = data.batches("test" if data.test is not None else data.selection_split)
    rows = [{"layer": path, "zeros": share} for path, share in shares.items()]
    return {"batches": len(batches), "steps": len(prepared["steps"]), "zeros": toolkit.Note("by weight", rows)}
