"""How similar a student is to its teacher, as one number."""

from __future__ import annotations

import torch
from torch import nn

import toolkit


def likeness(model: nn.Module, teacher: nn.Module, data: toolkit.Data) -> tuple[str, float]:
    """`agreement`, the share of equal answers; for a task without discrete answers `distance`, how far the student's
    outputs are from the teacher's."""
    split = "test" if data.test is not None else data.selection_split
    parts = [_of_batch(model, teacher, data.task, batch) for batch in data.batches(split)]
    return parts[0][0], sum(value for _, value, _ in parts) / sum(weight for _, _, weight in parts)


@torch.no_grad()
def _of_batch(model: nn.Module, teacher: nn.Module, task: toolkit.Task, batch: toolkit.Batch) -> tuple[str, float, int]:
    """Return the name of the measure, its sum over the batch, and the number of its terms."""
    outputs = [task.forward(network, batch) for network in (model, teacher)]
    own, other = (task.answers(each) for each in outputs)
    if own is None or other is None:
        own, other = (task.logits(each).float() for each in outputs)
        return "distance", float(task.distance(own, other, batch)) * len(batch), len(batch)
    counted = task.counted(batch)
    same = own == other if counted is None else (own == other)[counted]
    return "agreement", float(same.sum()), same.numel()
