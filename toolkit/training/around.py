"""Context managers around a step, `training.using(around_step=…)`, and whether they leave the model as it was."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import Any

from torch import nn

from toolkit.training.owners import Added, attributed_to, slot_error


class AroundSteps(AbstractContextManager[None]):
    """The contexts of one step: entered in order with the model, left in reverse."""

    def __init__(self, model: nn.Module, contexts: Sequence[Added[Any]]) -> None:
        self._model, self._contexts = model, contexts
        self._stack = ExitStack()

    def __enter__(self) -> None:
        with self._stack:
            for added in self._contexts:
                self._stack.enter_context(_Around(self._model, added))
            self._stack = self._stack.pop_all()

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)


class _Around(AbstractContextManager[None]):
    """One context, whose errors name its owner; an error of the step passes through."""

    def __init__(self, model: nn.Module, added: Added[Any]) -> None:
        self._model, self._owner, self._slot = model, added.owner, added.slot
        self._before = _traces(model)
        self._context = added(model)
        _check_context(self._context, added)

    def __enter__(self) -> None:
        with attributed_to(self._owner, self._slot):
            self._context.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with attributed_to(self._owner, self._slot):
            self._context.__exit__(kind, error, trace)
        if error is None:
            self._check_model()

    def _check_model(self) -> None:
        after = _traces(self._model)
        for path, module in self._model.named_modules():
            if self._before.get(module, after[module]) != after[module]:
                place = f"layer '{path}'" if path else "the model"
                problem = f"left {place} changed: a hook, `forward` or a weight; undo the change when the step ends"
                raise slot_error(self._owner, self._slot, problem)


def _check_context(context: Any, added: Added[Any]) -> None:
    if hasattr(type(context), "__enter__") and hasattr(type(context), "__exit__"):
        return
    is_generator = inspect.isgenerator(context)
    remedy = "decorate the function with contextlib.contextmanager" if is_generator else "return one, or nullcontext()"
    raise slot_error(
        added.owner, added.slot, f"must return a context manager, found {type(context).__name__}; {remedy}"
    )


def _traces(model: nn.Module) -> dict[nn.Module, tuple[Any, ...]]:
    """Return what a context may swap in every module: its class, `forward`, hooks and weights."""
    return {
        module: (
            type(module),
            vars(module).get("forward"),
            len(module._forward_hooks),
            len(module._forward_pre_hooks),
            [(id(weight), _address(weight)) for weight in module._parameters.values()],
            [name for name in module._parameters if name in vars(module)],
        )
        for module in model.modules()
    }


def _address(weight: nn.Parameter | None) -> int | None:
    # On a GPU, recurrent layers may move their weights themselves.
    return weight.data_ptr() if weight is not None and weight.device.type == "cpu" else None
