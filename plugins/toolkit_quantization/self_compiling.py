"""A model that compiles itself when it is first called; what is saved of it is the model that is not compiled."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from toolkit_quantization.inductor import compiled


class Compiled(nn.Module):
    """Runs `model` as `compiled` makes it; where that fails, as without a C++ compiler, as it is, with a warning.

    Nothing compiled is kept in copies or files: a copy, and what `toolkit.load` gives back, compiles itself again.
    While somebody watches what goes on inside (hooks on layers, dispatch modes, tracing) it runs as it is, too.
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
            expected = self.model(*args, **kwargs)  # if this fails too, the inputs are at fault
            warnings.warn(f"the model runs without being compiled: {problem}", RuntimeWarning, stacklevel=2)
            self._runner = _Runner(self.model, " ".join(f"{type(problem).__name__}: {problem}".split()))
            return expected

    @property
    def failure(self) -> str:
        """Why it was tried in vain to compile the model, if it was."""
        return "" if self._runner is None else self._runner.failure

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_runner"}


class _Runner:
    """A callable that is neither a submodule nor anything that would be saved."""

    def __init__(self, call: Callable[..., Any], failure: str = "") -> None:
        self.call, self.failure = call, failure


def _is_watched(model: nn.Module) -> bool:
    if torch._C._len_torch_dispatch_stack() or torch._C._len_torch_function_stack():
        return True
    return any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
