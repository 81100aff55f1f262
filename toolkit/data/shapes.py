"""The shape of a model's outputs for the samples of a data source."""

from __future__ import annotations

import torch
from torch import nn

from toolkit.data.splits import Data
from toolkit.errors import InputError, ToolkitError, described


def logits_shape(model: nn.Module, data: Data) -> tuple[int, ...]:
    """Return the shape of a model's logits for one sample, without the batch dimension.

    Raises:
        InputError: the model raises an error on two samples of the data.
    """
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            return tuple(data.task.logits(data.task.forward(model, data.example(2))).shape[1:])
    except Exception as error:
        raise InputError(f"cannot run on the data: {_reason(error)}") from error
    finally:
        model.train(was_training)


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, ToolkitError) else described(error)
