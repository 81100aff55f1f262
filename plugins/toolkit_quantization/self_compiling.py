"""A model that compiles itself on its first call; files and copies hold the model uncompiled."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from toolkit import stored_as
from toolkit_quantization.inductor import compiled


@stored_as("quantization.Compiled")
class Compiled(nn.Module):
    """A model that runs compiled; if that fails, as it does without a C++ compiler, uncompiled and with a warning.

    Copies and files hold nothing compiled: a copy, or a model from `toolkit.load`, compiles itself again. The model
    also runs uncompiled while somebody looks inside (hooks on layers, dispatch modes, tracing).
    """

    _runner: _Runner | None = None

    def __init__(self, model: nn.Module) -> None:
        """Hold the model under the name `model`."""
        super().__init__()
        self.model = model

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling() or _is_watched(self.model):
            return self.model(*args, **kwargs)
        try:
            if self._runner is None:
                self._runner = _Runner(compiled(self.model))
            return self._runner.call(*args, **kwargs)
        except Exception as problem:
            expected = self.model(*args, **kwargs)  # if this fails, too, the inputs are at fault
            warnings.warn(f"the model runs without being compiled: {problem}", RuntimeWarning, stacklevel=2)
            self._runner = _Runner(self.model, " ".join(f"{type(problem).__name__}: {problem}".split()))
            return expected

    @property
    def failure(self) -> str:
        """Why compiling failed; empty if it did not."""
        return "" if self._runner is None else self._runner.failure

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_runner"}


class _Runner:
    """A callable that is not a submodule and is not saved."""

    def __init__(self, call: Callable[..., Any], failure: str = "") -> None:
        self.call, self.failure = call, failure


def _is_watched(model: nn.Module) -> bool:
    if torch._C._len_torch_dispatch_stack() or torch._C._len_torch_function_stack():
        return True
    return any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
