"""What a recipe names, made before anything trains: its data, its model, and every model in its techniques' params."""

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
from toolkit.data.built_in import with_validation
from toolkit.data.coerce import as_data
from toolkit.data.shapes import logits_shape
from toolkit.data.splits import Data
from toolkit.errors import InputError, Problem, RecipeError, ToolkitError, described
from toolkit.metrics import answers, quality
from toolkit.model_files import refuse_unsavable
from toolkit.recipe.data_table import DataTable
from toolkit.recipe.read import Recipe
from toolkit.runner.environment import pick_device
from toolkit.seeding import reseed
from toolkit.sources import Source, models_in, resolve
from toolkit.tasks import to_float32

Made = TypeVar("Made")


@dataclass(frozen=True)
class Assembly:
    """The data and the untrained (or loaded) model of a recipe, on the recipe's device."""

    data: Data
    model: nn.Module


def assemble(recipe: Recipe) -> Assembly:
    """Make the data and the models, and compare the models' output shapes; a `RecipeError` names all that does not fit.

    What can be made is checked even where something else cannot, so that all mistakes are found at once.
    """
    trial = _Trial()
    device = trial.make("device", lambda: pick_device(recipe.table.device)) or torch.device("cpu")
    data = trial.make("data", lambda: replace(make_data(recipe.data), device=device))
    reseed(recipe.seed, 0)
    model = trial.make("model", lambda: recipe.model.build().to(device))
    expected = trial.make("model", lambda: _fit_of(recipe, model, data)) if model is not None else None
    for place, source in _sources(recipe):
        trial.make(place, partial(_require_fit, source, data, device, expected))
    if data is None or model is None or trial.problems:
        raise RecipeError(recipe.origin, trial.problems)
    reseed(recipe.seed, 0)
    return Assembly(data, model)


def make_data(table: DataTable) -> Data:
    """The data that a `[data]` table names, with a validation split, its metrics and the batch size; an `InputError`
    or a `ValueError` says what is wrong with it."""
    data = as_data(table.call(), table.source, table.batch_size)
    for name in ("train", "validation", "test"):
        if getattr(data, name) is not None:
            _require_samples(data, name)
    metrics = {source.rpartition(":")[2]: resolve(source, "data") for source in table.metrics}
    data = replace(
        with_validation(data, table.validation),
        batch_size=table.batch_size,
        metrics={**data.metrics, **metrics},
        task=table.make_task() or data.task,
        augment=table.make_augment() or data.augment,
    )
    if data.test is None and data.validation is None:
        raise InputError("has neither a test nor a validation split: there is nothing to measure on")
    return data


def _require_samples(data: Data, name: str) -> None:
    split = data.split(name)
    if not isinstance(split, tuple) and not hasattr(split, "__len__"):
        kind = type(split).__name__
        raise InputError(
            f"its {name} split is a {kind} without a length: give a map-style Dataset or a pair of tensors"
        )
    lengths = {len(leaf) for leaf in tree_leaves(split) if isinstance(leaf, torch.Tensor)} or {data.samples(name)}
    if lengths == {0}:
        raise InputError(f"its {name} split is empty")
    if len(lengths) > 1:
        raise InputError(f"its {name} split has {' and '.join(map(str, sorted(lengths)))} inputs and targets")


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, ToolkitError) else described(error)


class _Trial:
    """Makes one thing after another, and keeps why some of them could not be made."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def make(self, place: str, make: Callable[[], Made]) -> Made | None:
        """What `make` returns, or None and a problem at `place`."""
        try:
            return make()
        except (ToolkitError, ValueError) as error:
            self.problems.append(Problem(place, str(error)))
        except Exception as error:  # of a data source that does not do what one does
            self.problems.append(Problem(place, described(error)))
        return None


def _fit_of(recipe: Recipe, model: nn.Module, data: Data | None) -> tuple[int, ...] | None:
    """The shape of the model's logits on the data, if there is any; an `InputError` says why it cannot be used."""
    if data is None:
        return None
    # A first pass gives lazy layers their shapes, and makes of them what can be saved.
    shape = logits_shape(model, data)
    refuse_unsavable(model)
    _require_targets(shape, data)
    _require_answers(model, data)
    if any(stage.finetune is not None for stage in (recipe.baseline, *recipe.stages)):
        _require_loss(model, data)
    return shape


def _require_targets(shape: tuple[int, ...], data: Data) -> None:
    """Refuse targets that logits of this shape cannot answer: all that are in memory, of others those of two."""
    for name in ("train", "validation", "test"):
        if getattr(data, name) is None:
            continue
        split = in_memory(data.split(name))
        few = torch.arange(min(2, data.samples(name)))
        targets = split[1] if isinstance(split, tuple) else next(iter(data.batches(name, order=few))).targets
        if reason := data.task.mismatch(shape, targets):
            raise InputError(f"does not fit the {name} split: {reason}")


def _require_loss(model: nn.Module, data: Data) -> None:
    """Compute the loss of one training batch, augmented as in training."""
    batch_size = min(data.batch_size, data.samples("train"))
    try:
        with torch.no_grad():
            batch = next(iter(data.training_batches(torch.arange(batch_size), batch_size)))
            data.task.loss(to_float32(data.task.forward(model.eval(), batch)), batch)
    except Exception as error:
        raise InputError(f"cannot be trained on the data: {_reason(error)}") from error


def _require_answers(model: nn.Module, data: Data) -> None:
    """Measure the quality of two samples, as is done of every row."""
    split = "test" if data.test is not None else "validation"
    few = replace(data, test=take(data.split(split), torch.arange(min(2, data.samples(split)))))
    try:
        quality(answers(model, few))
    except Exception as error:
        raise InputError(f"cannot be measured on the data: {_reason(error)}") from error


def _require_fit(source: Source, data: Data | None, device: torch.device, expected: tuple[int, ...] | None) -> None:
    model = source.build().to(device)
    if data is None:
        return
    found = logits_shape(model, data)  # before the next check, as above
    refuse_unsavable(model)
    if expected is not None and found != expected:
        raise InputError(f"its outputs are {found} a sample, and those of the model are {expected}")


def weight_files(recipe: Recipe) -> Iterator[Path]:
    """The files that the recipe's models take their weights from."""
    sources: list[Source] = [recipe.model, *(source for _, source in _sources(recipe))]
    return (Path(source.weights) for source in sources if source.weights is not None)


def _sources(recipe: Recipe) -> Iterator[tuple[str, Source]]:
    for stage in recipe.stages:
        for position, use in enumerate(stage.uses):
            within = f"stages.{stage.number}" + (f".with.{position}" if position else "")
            for place, source in models_in(use.params):
                yield f"{within}.params.{place}", source
