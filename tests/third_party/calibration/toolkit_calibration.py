"""Calibration: how far the confidence of a model is from its accuracy, for every row of a run.

The expected calibration error of Guo et al., "On calibration of modern neural networks", 2017. Compression often
leaves the accuracy as it is and makes a model too sure of itself.
"""

import torch
from pydantic import Field
from torch import Tensor

import toolkit


class Params(toolkit.Params):
    """How finely confidence is looked at."""

    bins: int = Field(default=15, ge=1, le=1000, description="equal parts that confidence is divided into")


def calibration_error(confidence: Tensor, correct: Tensor, bins: int) -> float:
    """The mean distance of confidence and accuracy over equal bins, weighted by their samples.

    Args:
        confidence: (N,) float within 0 and 1.
        correct: (N,) bool.
        bins: how many.
    """
    position = (confidence * bins).long().clamp(0, bins - 1)
    error = 0.0
    for number in position.unique():
        inside = position == number
        distance = confidence[inside].mean() - correct[inside].float().mean()
        error += float(distance.abs()) * int(inside.sum()) / len(confidence)
    return error


@toolkit.hookimpl
def measure(model, params, data):
    """`error` and the mean `confidence`; nothing for a task in which no answer is right or wrong."""
    split = "test" if data.test is not None else data.selection_split
    confidence, correct = [], []
    for batch in data.batches(split):
        outputs = data.task.forward(model, batch)
        right = data.task.correct(outputs, batch)
        if right is None:
            return {}
        confidence.append(data.task.logits(outputs).float().softmax(dim=1).amax(dim=1))
        correct.append(right)
    sure = torch.cat(confidence)
    return {"error": calibration_error(sure, torch.cat(correct), params.bins), "confidence": float(sure.mean())}
