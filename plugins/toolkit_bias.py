"""Bias correction: shifts the biases of some classes in the last layer by one common offset.

A student that was distilled without samples of a class hardly ever predicts that class, because its bias is far too
low: Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015, section 3. They chose the offset on
the test set; this technique takes the one with the fewest errors on the validation split (on train if there is none).
It also corrects other classes that are rare in training: Menon et al., "Long-tail learning via logit adjustment", 2021.

Give it a stage of its own after the training and without `finetune`, which would move the biases again. Put that stage
before quantization, whose layers have no parameters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn
from torch.nn.utils import parametrize

import toolkit
from toolkit import TechniqueError, hookimpl, masks

PROBED_SAMPLES = 8  # on which to test whether a bias adds to the logits
RELATIVE_TOLERANCE = 1e-3  # of the largest logit, for the rounding of a sum
numbers = {
    "offset": toolkit.Number("offset", "what was added to the biases of the classes"),
    "right_*_before": toolkit.Number(
        "class * before", "fraction of the samples of class * that are right without the offset", "fraction", "higher"
    ),
    "right_*": toolkit.Number(
        "class *", "fraction of the samples of class * that are right with the offset", "fraction", "higher"
    ),
    "errors_on_others_before": toolkit.Number(
        "errors on others before", "wrong answers on samples of all other classes without the offset", better="lower"
    ),
    "errors_on_others": toolkit.Number(
        "errors on others", "wrong answers on samples of all other classes with the offset", better="lower"
    ),
}


class Params(toolkit.Params):
    """Which biases to shift."""

    classes: list[Annotated[int, Field(ge=0)]] = Field(
        default=[0], min_length=1, description="numbers of the classes whose biases are shifted"
    )
    layer: str | None = Field(
        default=None, description="name of the last layer (default: found by what its bias does to the logits)"
    )

    @field_validator("classes")
    @classmethod
    def _each_once(cls, classes: list[int]) -> list[int]:
        twice = next((number for number in classes if classes.count(number) > 1), None)
        if twice is not None:
            raise ValueError(f"class {twice} is listed twice")
        return classes


@dataclass
class Findings:
    """What `optimize` did: the offset, the bias it changed, and the errors on the selection split before and after."""

    offset: float = 0.0
    path: str = ""
    errors_before: int = 0
    errors: int = 0
    samples: int = 0


def best_offset(logits: Tensor, targets: Tensor, classes: Sequence[int]) -> float:
    """Return the offset to the logits of some classes that gives the fewest errors, exactly, in O(n log n).

    As the offset grows, the answer to a sample changes once, from the best of the other classes to the best of these;
    it is right on one side of this threshold, or never. Between two neighbouring thresholds the number of errors is
    constant. The result is the middle of the widest of the intervals with the fewest errors, or 1 beyond the last
    threshold if the interval is open. It is 0 if no sample is of these classes, or no answer can be right.

    Args:
        logits: (N, C).
        targets: (N,) int64.
        classes: some of the numbers 0 to C - 1, not all.
    """
    raised = torch.zeros(logits.shape[1], dtype=torch.bool, device=logits.device)
    raised[list(classes)] = True
    theirs, their_answers = logits.double().masked_fill(~raised, -torch.inf).max(dim=1)
    others, other_answers = logits.double().masked_fill(raised, -torch.inf).max(dim=1)
    right_above, right_below = their_answers == targets, other_answers == targets
    if not raised[targets].any() or not (right_above | right_below).any():
        return 0.0
    ends, place = (others - theirs).unique(return_inverse=True)  # in ascending order
    gained = torch.zeros(len(ends), dtype=torch.long, device=logits.device)
    gained.index_add_(0, place, right_above.long() - right_below.long())
    right = torch.cat([gained.new_zeros(1), gained.cumsum(0)])  # in each interval, and right_below.sum() more
    bounds = torch.cat([ends[:1] - 2, ends, ends[-1:] + 2])
    best = int(bounds.diff().masked_fill(right < right.max(), -1).argmax())
    return float((bounds[best] + bounds[best + 1]) / 2)


def add_to_bias(model: nn.Module, path: str, classes: Sequence[int], offset: float) -> None:
    """Add to some entries of a bias, in place; of a parametrized bias, to what its layer sees.

    Raises:
        RuntimeError: by torch, if the parametrization cannot be inverted.
    """
    weight = next(weight for weight in masks.named_weights(model) if weight.path == path)
    value = weight.value.clone()
    value[list(classes)] += offset
    with torch.no_grad():
        if parametrize.is_parametrized(weight.module, weight.attribute):
            setattr(weight.module, weight.attribute, value)
        else:
            weight.parameter.copy_(value)


def find_bias(model: nn.Module, params: Params, data: toolkit.Data) -> str:
    """Return the path of the bias that adds to the logits; a `TechniqueError` lists all biases if there is none."""
    biases = {weight.path: weight for weight in masks.named_weights(model) if weight.attribute == "bias"}
    asked = _each_once(biases) if params.layer is None else [f"{params.layer}.bias".lstrip(".")]
    if params.layer is not None and asked[0] not in biases:
        raise TechniqueError(f"the layer '{params.layer}' has no bias that can be changed; {_listed(biases)}")
    adding = [path for path in asked if _adds_to_logits(model, biases[path], params.classes, data)]
    if not adding:
        what = "no bias adds" if params.layer is None else f"'{asked[0]}' does not add"
        raise TechniqueError(f"{what} to the logits of these classes, and to nothing else; {_listed(biases)}")
    if len(adding) > 1:
        raise TechniqueError(f"{' and '.join(adding)} all add to the logits; choose one with 'layer'")
    return adding[0]


@hookimpl
def prepare(model: nn.Module, params: Params, data: toolkit.Data) -> Findings:
    """Return empty findings; refuse tasks other than classification, and classes that the model does not have."""
    if not isinstance(data.task, toolkit.Classification):
        task = type(data.task).__name__
        raise TechniqueError(f"bias-correction needs a task with one class per sample, but the task is {task}")
    known = _logits(model, data, data.example(1)).shape[1]
    if max(params.classes) >= known:
        raise TechniqueError(f"classes lists {max(params.classes)}, but the model has classes 0 to {known - 1}")
    if len(params.classes) == known:
        raise TechniqueError(
            f"classes lists all {known} classes of the model, but one offset for all of them changes no answer"
        )
    return Findings()


@hookimpl
def optimize(model: nn.Module, params: Params, data: toolkit.Data, prepared: Findings) -> nn.Module:
    """Add the best offset to the biases."""
    prepared.path = find_bias(model, params, data)
    logits, targets = _all_logits(model, data, data.selection_split)
    prepared.offset = best_offset(logits, targets, params.classes)
    corrected = _shifted(logits, params.classes, prepared.offset)
    prepared.errors_before, prepared.errors = _errors(logits, targets), _errors(corrected, targets)
    prepared.samples = len(targets)
    add_to_bias(model, prepared.path, params.classes, prepared.offset)
    return model


@hookimpl
def measure(
    model: nn.Module, params: Params, data: toolkit.Data, prepared: Findings
) -> dict[str, float | toolkit.Note]:
    """Return the offset, how it was chosen, and what it changed on test: values with it, and without it as `_before`.

    These values are the share of right answers on the samples of each class, and the errors on all other samples.
    """
    logits, targets = _all_logits(model, data, "test" if data.test is not None else data.selection_split)
    after = _counts(logits, targets, params.classes)
    before = _counts(_shifted(logits, params.classes, -prepared.offset), targets, params.classes)
    text = f"{prepared.path}, chosen on {prepared.samples} samples of {data.selection_split}"
    chosen = toolkit.Note(f"{text}: {prepared.errors_before} errors before, {prepared.errors} after")
    without = {f"{name}_before": value for name, value in before.items()}
    return {"offset": prepared.offset, **after, **without, "chosen": chosen}


def _counts(logits: Tensor, targets: Tensor, classes: Sequence[int]) -> dict[str, float]:
    counts = {}
    others = torch.ones_like(targets, dtype=torch.bool)
    for number in classes:
        own = targets == number
        others &= ~own
        right = (logits[own].argmax(dim=1) == number).double()
        counts[f"right_{number}"] = float(right.mean())  # NaN ("not measured") without such samples
    return {**counts, "errors_on_others": _errors(logits[others], targets[others])}


def _errors(logits: Tensor, targets: Tensor) -> int:
    return int((logits.argmax(dim=1) != targets).sum())


def _shifted(logits: Tensor, classes: Sequence[int], offset: float) -> Tensor:
    shifted = logits.clone()
    shifted[:, list(classes)] += offset
    return shifted


def _all_logits(model: nn.Module, data: toolkit.Data, split: str) -> tuple[Tensor, Tensor]:
    """Logits (N, C) in float64 and targets (N,) of all samples of a split."""
    batches = [(_logits(model, data, batch), batch.targets) for batch in data.batches(split)]
    return torch.cat([logits for logits, _ in batches]), torch.cat([targets for _, targets in batches])


@torch.no_grad()
def _logits(model: nn.Module, data: toolkit.Data, batch: toolkit.Batch) -> Tensor:
    """(N, C) in float64, in eval mode."""
    was_training = model.training
    try:
        return data.task.logits(data.task.forward(model.eval(), batch)).double()
    finally:
        model.train(was_training)


def _adds_to_logits(model: nn.Module, bias: masks.Weight, classes: Sequence[int], data: toolkit.Data) -> bool:
    """Return whether adding to the entries of these classes adds the same to their logits, and only to them."""
    batch = data.example(PROBED_SAMPLES)
    logits = _logits(model, data, batch)
    if bias.value.shape != logits.shape[1:]:
        return False
    changed = masks.clone(model)
    try:
        add_to_bias(changed, bias.path, classes, 1.0)
    except RuntimeError:
        return False
    deviation = _logits(changed, data, batch) - _shifted(logits, classes, 1.0)
    # All logits of a sample may shift together, as behind a `LogSoftmax`: that changes no answer.
    deviation -= deviation.mean(dim=1, keepdim=True)
    return float(deviation.abs().max()) <= RELATIVE_TOLERANCE * max(1.0, float(logits.abs().max()))


def _each_once(biases: Mapping[str, masks.Weight]) -> list[str]:
    """Return the paths, without those of layers that share the bias of an earlier layer."""
    first: dict[int, str] = {}
    for path, bias in biases.items():
        first.setdefault(id(bias.parameter), path)
    return list(first.values())


def _listed(biases: Mapping[str, masks.Weight]) -> str:
    if not biases:
        return "the model has none (those of quantized layers cannot be changed)"
    return "the model has " + ", ".join(f"{path} ({bias.value.numel()})" for path, bias in biases.items())
