"""Tasks, through which techniques and metrics run a model: inputs, logits, loss, correct answers."""

from __future__ import annotations

from torch.utils.data import Dataset

from toolkit.tasks.classification import Classification
from toolkit.tasks.multilabel import MultiLabel
from toolkit.tasks.outputs import to_float32
from toolkit.tasks.pooled import Pooled
from toolkit.tasks.regression import Regression
from toolkit.tasks.task import Batch, Direction, Task
from toolkit.tasks.tokens import TokenClassification

TASKS: dict[str, type[Task]] = {
    "classification": Classification,
    "regression": Regression,
    "multi-label": MultiLabel,
    "token-classification": TokenClassification,
}

__all__ = [
    "TASKS",
    "Batch",
    "Classification",
    "Dataset",
    "Direction",
    "MultiLabel",
    "Pooled",
    "Regression",
    "Task",
    "TokenClassification",
    "to_float32",
]
