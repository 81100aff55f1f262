"""Building of everything that a recipe names: its data, its model, and every model in its params."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from toolkit.data.batches import in_memory, take
from toolkit.data.coerce import as_data
from toolkit.data.shapes import logits_shape
from toolkit.data.splits import Data
from toolkit.data.validation_split import with_validation
from toolkit.errors import InputError, Problem, RecipeError, ToolkitError, described
from toolkit.metrics import answers, quality
from toolkit.model_files import refuse_unsavable
from toolkit.recipe.data_table import DataTable
from toolkit.recipe.read import Recipe
from toolkit.runner.environment import pick_device
from toolkit.seeding import reseed
from toolkit.sources import Source, models_in, resolve
from toolkit.tasks import to_float32

T = TypeVar("T")


@dataclass(frozen=True)
class Assembly:
    """The data of a recipe and its model, untrained or loaded, on the recipe's device."""

    data: Data
    model: nn.Module


def assemble(recipe: Recipe) -> Assembly:
    """Build the data and the models, and check that they match.

    Everything that can be built is checked, even if something else cannot, to find all mistakes at once.

    Raises:
        RecipeError: something cannot be built or does not match; the message lists all mistakes.
    """
    builder = _Builder()
    device = builder.build("device", lambda: pick_device(recipe.table.device)) or torch.device("cpu")
    data = builder.build("data", lambda: replace(make_data(recipe.data), device=device))
    reseed(recipe.seed, 0)
    model = builder.build("model", lambda: recipe.model.build().to(device))
    expected = builder.build("model", lambda: _checked_shape(recipe, model, data)) if model is not None else None
    for place, source in _sources(recipe):
        builder.build(place, partial(_check_source, source, data, device, expected))
    if data is None or model is None or builder.problems:
        raise RecipeError(recipe.origin, builder.problems)
    reseed(recipe.seed, 0)
    return Assembly(data, model)


def make_data(table: DataTable) -> Data:
    """Return the data that a `[data]` table names, with its validation split, metrics, task and batch size.

    Raises:
        InputError: a split is missing, empty or of the wrong kind.
        ValueError: a setting does not match the data.
    """
    data = as_data(table.call(), table.source, table.batch_size)
    for name in ("train", "validation", "test"):
        if getattr(data, name) is not None:
            _check_samples(data, name)
    metrics = {source.rpartition(":")[2]: resolve(source, "data") for source in table.metrics}
    data = replace(
        with_validation(data, table.validation),
        batch_size=table.batch_size,
        metrics={**data.metrics, **metrics},
        task=table.make_task() or data.task,
        augment=table.make_augment() or data.augment,
    )
    if data.test is None and data.validation is None:
        raise InputError("has neither a test nor a validation split; add one to measure on")
    return data


def _check_samples(data: Data, name: str) -> None:
    split = data.split(name)
    if not isinstance(split, tuple) and not hasattr(split, "__len__"):
        kind = type(split).__name__
        raise InputError(
            f"the {name} split must be a map-style Dataset or a pair of tensors, found {kind} without a length"
        )
    lengths = {len(leaf) for leaf in tree_leaves(split) if isinstance(leaf, torch.Tensor)} or {data.samples(name)}
    if lengths == {0}:
        raise InputError(f"the {name} split is empty")
    if len(lengths) > 1:
        raise InputError(
            f"the {name} split must have as many inputs as targets, found {' and '.join(map(str, sorted(lengths)))}"
        )


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, ToolkitError) else described(error)


class _Builder:
    """A collector of the problems that occur while several things are built."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def build(self, place: str, make: Callable[[], T]) -> T | None:
        """Return the result of `make`; if it fails, record a problem at `place` and return None."""
        try:
            return make()
        except (ToolkitError, ValueError) as error:
            self.problems.append(Problem(place, str(error)))
        except Exception as error:  # from a user's data source or model
            self.problems.append(Problem(place, described(error)))
        return None


def _checked_shape(recipe: Recipe, model: nn.Module, data: Data | None) -> tuple[int, ...] | None:
    """Return the shape of the model's logits, or None without data; raise an `InputError` if they do not match."""
    if data is None:
        return None
    # The first forward pass gives lazy layers their shapes; before it, they cannot be saved.
    shape = logits_shape(model, data)
    refuse_unsavable(model)
    _check_targets(shape, data)
    _check_measurable(model, data)
    if any(stage.finetune is not None for stage in (recipe.baseline, *recipe.stages)):
        _check_loss(model, data)
    return shape


def _check_targets(shape: tuple[int, ...], data: Data) -> None:
    """Check that logits of this shape match the targets: all targets in memory, else those of two samples."""
    for name in ("train", "validation", "test"):
        if getattr(data, name) is None:
            continue
        split = in_memory(data.split(name))
        first_two = torch.arange(min(2, data.samples(name)))
        targets = split[1] if isinstance(split, tuple) else next(iter(data.batches(name, order=first_two))).targets
        if reason := data.task.mismatch(shape, targets):
            raise InputError(f"does not match the {name} split: {reason}")


def _check_loss(model: nn.Module, data: Data) -> None:
    """Check that the loss of one training batch, augmented as in training, can be computed."""
    batch_size = min(data.batch_size, data.samples("train"))
    try:
        with torch.no_grad():
            batch = next(iter(data.training_batches(torch.arange(batch_size), batch_size)))
            data.task.loss(to_float32(data.task.forward(model.eval(), batch)), batch)
    except Exception as error:
        raise InputError(f"cannot be trained on the data: {_reason(error)}") from error


def _check_measurable(model: nn.Module, data: Data) -> None:
    """Check that the quality of two samples can be measured, as for every row."""
    split = "test" if data.test is not None else "validation"
    few = replace(data, test=take(data.split(split), torch.arange(min(2, data.samples(split)))))
    try:
        quality(answers(model, few))
    except Exception as error:
        raise InputError(f"cannot be measured on the data: {_reason(error)}") from error


def _check_source(source: Source, data: Data | None, device: torch.device, expected: tuple[int, ...] | None) -> None:
    model = source.build().to(device)
    if data is None:
        return
    shape = logits_shape(model, data)  # before the next check, for lazy layers
    refuse_unsavable(model)
    if expected is not None and shape != expected:
        raise InputError(f"must have the outputs of the model, {expected} per sample, found {shape}")


def check_weight_files(recipe: Recipe, directory: Path) -> None:
    """Raise an `InputError` if a weight file of the recipe is in the run directory, whose files the run replaces."""
    for source in (recipe.model, *(source for _, source in _sources(recipe))):
        file = source.weights
        if file is not None and Path(file).resolve().is_relative_to(directory.resolve()):
            raise InputError(
                f"{file} is in the run directory {directory}, which this run replaces; choose another --output"
            )


def _sources(recipe: Recipe) -> Iterator[tuple[str, Source]]:
    for stage in recipe.stages:
        for position, use in enumerate(stage.uses):
            within = f"stages.{stage.number}" + (f".with.{position}" if position else "")
            for place, source in models_in(use.params):
                yield f"{within}.params.{place}", source
