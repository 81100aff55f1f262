"""Statistics of batch norms, estimated again for a model whose activations have changed."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from toolkit.data.splits import Data
from toolkit.eval_mode import in_eval_mode

__all__ = ["reestimate"]

DEFAULT_SAMPLES = 4096


@torch.no_grad()
def reestimate(model: nn.Module, data: Data, samples: int = DEFAULT_SAMPLES) -> None:
    """Set the mean and variance of every batch norm to those of the first samples of the train split, in place.

    Each layer averages over the batches, as its inputs are once the layers before it are normalized by their batch.
    Everything else of the model is in eval mode meanwhile. A model without such statistics stays as it is.

    Args:
        model: on `data.device`.
        data: its train split is read in order, and not augmented.
        samples: how many samples to read at most; more give a better estimate.
    """
    norms: list[Any] = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    norms = [norm for norm in norms if norm.track_running_stats and norm.running_mean is not None]
    if not norms:
        return
    before = [(norm.momentum, norm.running_mean.clone(), norm.running_var.clone()) for norm in norms]
    order = torch.arange(min(samples, data.samples("train")))
    with in_eval_mode(model):
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the mean over all batches
            norm.train()
        try:
            for batch in data.batches("train", order=order, batch_size=max(2, data.batch_size)):
                if len(batch) > 1:  # one sample has no variance
                    data.task.forward(model, batch)
        finally:
            for norm, (momentum, mean, variance) in zip(norms, before, strict=True):
                norm.momentum = momentum
                norm.eval()
                if not norm.num_batches_tracked:  # no sample came here
                    norm.running_mean.copy_(mean)
                    norm.running_var.copy_(variance)
