"""How a stage trains: its settings, its loss, and what the techniques of the stage added."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from toolkit.tasks import Batch
from toolkit.training.losses import OwnedLoss
from toolkit.training.owners import Added, check_callable
from toolkit.training.settings import TrainingSettings

Loss: TypeAlias = Callable[[Any, Batch], Tensor]
StepFunction: TypeAlias = Callable[[int, int], None]
AroundStep: TypeAlias = Callable[[nn.Module], AbstractContextManager[Any]]
WeightFunction: TypeAlias = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class TrainedAlong:
    """A helper module with settings of its own, for `training.using(trained_along=…)`.

    The learning-rate schedule of the training scales `lr` too. Parameters that belong to the model as well keep the
    settings of the model.

    Attributes:
        module: the helper module.
        lr: learning rate of its parameters, None for that of the training.
        weight_decay: weight decay of its parameters, None for that of the training.
    """

    module: nn.Module
    lr: float | None = None
    weight_decay: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.module, nn.Module):
            found = "a tensor" if isinstance(self.module, Tensor) else type(self.module).__name__
            remedy = "; make it a parameter of a module" if isinstance(self.module, Tensor) else ""
            raise TypeError(f"`trained_along` must be an nn.Module or a TrainedAlong, found {found}{remedy}")
        if self.lr is not None and not self.lr > 0:
            raise ValueError(f"`lr` of TrainedAlong must be greater than 0, found {self.lr}")
        if self.weight_decay is not None and not self.weight_decay >= 0:
            raise ValueError(f"`weight_decay` of TrainedAlong must be at least 0, found {self.weight_decay}")


@dataclass(frozen=True)
class Training:
    """How one stage trains. A technique receives it in `finetune`, adds to it by `using`, and returns the result.

    Attributes:
        settings: the recipe's `training` or `finetune` table.
        loss: `(outputs, batch) -> scalar`; always receives float32.
        step_functions: called after each step with `(step, steps)`, from 1.
        trained_along: helper modules, which are trained with the model and dropped afterwards.
        contexts: entered with the model before each forward pass, left after its loss.
        weights: by path, the functions of one call of `using`; the later calls see the results of the earlier ones.
        samples: positions in the train split to train on, int64 (N,), None for all.
        owner: name and distribution of the technique that adds to it at the moment, empty outside a stage.
    """

    settings: TrainingSettings
    loss: Loss
    step_functions: tuple[Added[StepFunction], ...] = ()
    trained_along: tuple[TrainedAlong, ...] = ()
    contexts: tuple[Added[AroundStep], ...] = ()
    weights: tuple[Mapping[str, Added[WeightFunction]], ...] = ()
    samples: Tensor | None = None
    owner: str = ""

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """All modules that are trained with the model, each once: helpers, and modules that are weight functions."""
        functions = (added.function for functions in self.weights for added in functions.values())
        candidates = [*(along.module for along in self.trained_along), *functions]
        return tuple(dict.fromkeys(module for module in candidates if isinstance(module, nn.Module)))

    def using(
        self,
        *,
        loss: Loss | None = None,
        after_step: StepFunction | None = None,
        trained_along: nn.Module | TrainedAlong | None = None,
        around_step: AroundStep | None = None,
        weights: Mapping[str, WeightFunction] | None = None,
        samples: Tensor | None = None,
    ) -> Training:
        """Return the same training with another loss, with something added, or on fewer samples.

        Args:
            loss: replaces the current loss, which it should wrap.
            after_step: called with `(step, steps)` after each step, from 1.
            trained_along: a module to train with the model, or a `TrainedAlong` with settings of its own.
            around_step: called with the model that runs, which may be a copy; the context manager that it returns is
                active during the forward pass and the loss. Add hooks to layers in it, and remove them.
            weights: functions by path, such as `fc1.weight`. During a step the network sees `function(weight)` instead
                of the weight, with gradients through the function; outside the step, but for a validation after an
                epoch, the weight is itself. The function receives the masked weight and returns a tensor of the same
                shape and dtype; the zeros of a mask stay zeros. Layers that share the weight all see the result, which
                is computed once per step. A function that is an nn.Module is trained with the model.
            samples: positions in the train split, int64 (N,). The training uses only these, of those that it used
                before: the model never sees the others, not even its batch norms. The batch size stays the same.

        Raises:
            TypeError: an argument has the wrong type, or a function takes other arguments.
        """
        return replace(
            self,
            loss=self.loss if loss is None else self._owned_loss(loss),
            step_functions=(*self.step_functions, *self._added("after_step", after_step, "step", "steps")),
            trained_along=(*self.trained_along, *_trained_along(trained_along)),
            contexts=(*self.contexts, *self._added("around_step", around_step, "model")),
            weights=(*self.weights, *([self._weights(weights)] if weights is not None else [])),
            samples=_intersection(self.samples, samples),
        )

    def _owned_loss(self, loss: Loss) -> Loss:
        check_callable(loss, "loss", "outputs", "batch")
        return OwnedLoss(loss, "loss", self.owner) if self.owner else loss

    def _added(self, slot: str, function: Any, *arguments: str) -> tuple[Added[Any], ...]:
        if function is None:
            return ()
        check_callable(function, slot, *arguments)
        return (Added(function, slot, self.owner),)

    def _weights(self, weights: Mapping[str, WeightFunction]) -> dict[str, Added[WeightFunction]]:
        if not isinstance(weights, Mapping):
            raise TypeError(f"`weights` must be functions by path of a weight, found {type(weights).__name__}")
        added = {}
        for path, function in weights.items():
            slot = f"weights['{path}']"
            check_callable(function, slot, "weight")
            added[path] = Added(function, slot, self.owner)
        return added


def _trained_along(module: nn.Module | TrainedAlong | None) -> tuple[TrainedAlong, ...]:
    if module is None:
        return ()
    return (module if isinstance(module, TrainedAlong) else TrainedAlong(module),)


def _intersection(samples: Tensor | None, others: Tensor | None) -> Tensor | None:
    if others is None:
        return samples
    if not isinstance(others, Tensor) or others.dtype != torch.int64 or others.dim() != 1:
        found = f"{others.dtype} {tuple(others.shape)}" if isinstance(others, Tensor) else type(others).__name__
        raise TypeError(f"`samples` must be an int64 tensor of shape (N,), found {found}")
    return others if samples is None else samples[torch.isin(samples, others)]
