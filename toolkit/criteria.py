"""What the train split says of weights: gradients of the loss, and how large the inputs are that layers read.

Criteria compute from it how much a weight or a channel matters.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from toolkit import masks
from toolkit.data.batches import Batches
from toolkit.data.splits import Data
from toolkit.eval_mode import in_eval_mode

__all__ = ["gradients", "input_norms", "weights_times_inputs"]

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)


def gradients(model: nn.Module, data: Data, paths: Collection[str], samples: int) -> Iterator[dict[str, Tensor]]:
    """Yield the gradients of the mean loss of each batch, by path, with the model in eval mode.

    Args:
        model: on `data.device`, masked or not; it is left as it was. Weights have gradients even where they are frozen
            or masked, as if they were not.
        data: the first samples of its train split are read in order, and not augmented.
        paths: weights as `masks.named_weights` names them; those that the loss does not depend on are missing.
        samples: how many samples to read at most.
    """
    plain = masks.folded(model).eval()
    weights = {path: plain.get_parameter(path).requires_grad_() for path in paths}
    # In eval mode, cuDNN has no gradients of recurrent layers.
    with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
        for batch in _batches(data, samples):
            loss = data.task.loss(data.task.forward(plain, batch), batch)
            found = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
            yield {path: gradient for path, gradient in zip(weights, found, strict=True) if gradient is not None}


@torch.no_grad()
def input_norms(model: nn.Module, data: Data, layers: Collection[str], samples: int) -> dict[str, Tensor]:
    """Return by layer the Euclidean norm of each input channel over samples and positions, (I,) float32.

    Args:
        model: on `data.device`, in any mode; it is left as it was.
        data: the first samples of its train split are read in order, and not augmented.
        layers: paths of layers; those that are neither linear nor convolutions are missing, and those that `forward`
            does not call, such as the projections of an attention layer.
        samples: how many samples to read at most.
    """
    squares: dict[str, Tensor] = {}
    modules = {path: model.get_submodule(path) for path in layers}
    hooks = [
        module.register_forward_pre_hook(_adding(squares, path), with_kwargs=True)
        for path, module in modules.items()
        if isinstance(module, KINDS)
    ]
    try:
        with in_eval_mode(model):
            for batch in _batches(data, samples):
                data.task.forward(model, batch)
    finally:
        for hook in hooks:
            hook.remove()
    return {path: total.sqrt() for path, total in squares.items()}


def weights_times_inputs(weight: Tensor, input_norms: Tensor) -> Tensor:
    """Return the absolute value of each weight times the norm of the input that it multiplies, in the weight's shape.

    Sun et al., "A simple and effective pruning approach for large language models" (Wanda), ICLR 2024.

    Args:
        weight: of a linear layer or a convolution, (O, I, …), or (O, I / groups, …).
        input_norms: of every input channel, (I,).
    """
    groups = input_norms.view(-1, weight.shape[1])
    norms = groups.repeat_interleave(len(weight) // len(groups), 0)
    return weight.abs() * norms.view(*norms.shape, *[1] * (weight.dim() - 2))


def _batches(data: Data, samples: int) -> Batches:
    return data.batches("train", order=torch.arange(min(samples, data.samples("train"))))


def _adding(squares: dict[str, Tensor], path: str) -> Callable[[nn.Module, Any, Any], None]:
    def hook(layer: Any, args: Any, kwargs: Any) -> None:
        values = next(iter((*args, *kwargs.values()))).detach().float()
        positions = 0 if isinstance(layer, nn.Linear) else len(layer.kernel_size)
        total = values.movedim(values.dim() - 1 - positions, 0).flatten(1).square().sum(1)
        squares[path] = squares[path] + total if path in squares else total

    return hook
