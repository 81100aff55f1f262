"""What a new recipe suggests for its data and its model: batch size, epochs, and the normalization of images."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass

import torch

from toolkit.data.coerce import loader_batch_size
from toolkit.data.splits import Data
from toolkit.errors import ToolkitError
from toolkit.recipe.data_table import FOLDERS, DataTable
from toolkit.recipe.read import Recipe
from toolkit.scaffold.image_arguments import Argument, image_arguments
from toolkit.scaffold.templates import inline_table

MIN_STEPS, MIN_EPOCHS = 500, 5  # of the training of the baseline
MIN_FINETUNE_STEPS, MIN_FINETUNE_EPOCHS = 250, 2


@dataclass(frozen=True)
class Epochs:
    """A number of epochs, and the reason for it."""

    count: int
    reason: str


@dataclass(frozen=True)
class Suggestions:
    """The values of a new recipe that follow from its data and its model.

    Attributes:
        batch_size: of the user's `DataLoader`, None if there is none.
        steps_per_epoch: number of training steps of one epoch.
        data_args: the arguments of a data source of images, those of the user included.
    """

    batch_size: int | None = None
    steps_per_epoch: int = 1
    data_args: tuple[Argument, ...] = ()

    @property
    def training(self) -> Epochs:
        """Epochs of the baseline."""
        return _epochs(self.steps_per_epoch, MIN_STEPS, MIN_EPOCHS)

    @property
    def finetune(self) -> Epochs:
        """Epochs of a stage."""
        return _epochs(self.steps_per_epoch, MIN_FINETUNE_STEPS, MIN_FINETUNE_EPOCHS)


def batch_size_of(table: DataTable) -> int | None:
    """Return the batch size of the `DataLoader` that a source returns to train on; None if it returns none."""
    if ":" in table.source:
        with suppress(ToolkitError):  # which is reported when the data is built
            return loader_batch_size(table.call())
    return None


def suggestions_for(recipe: Recipe, data: Data, batch_size: int | None, data_args: str) -> Suggestions:
    """Return the suggestions for a draft of a recipe.

    Args:
        recipe: draft.
        data: its data.
        batch_size: batch size of the user's `DataLoader`.
        data_args: the user's arguments of the data source, as a table of TOML on one line.
    """
    steps = len(data.training_batches(torch.arange(data.samples("train")), data.batch_size))
    if recipe.data.source not in FOLDERS:
        return Suggestions(batch_size, steps)
    chosen = inline_table(data_args)
    return Suggestions(batch_size, steps, tuple(image_arguments(recipe.model, data, chosen)))


def _epochs(steps_per_epoch: int, min_steps: int, min_epochs: int) -> Epochs:
    count = max(min_epochs, math.ceil(min_steps / steps_per_epoch))
    total = f"at least {min_steps}" if count > min_epochs else f"{count * steps_per_epoch:,}"
    return Epochs(count, f"for {total} steps; an epoch has {steps_per_epoch:,}")
