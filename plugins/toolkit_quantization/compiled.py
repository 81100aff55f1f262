"""A model that compiles itself when it is first called; what is saved of it is the model that is not compiled."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn


class Compiled(nn.Module):
    """Runs `model` by `torch.compile`; where that is impossible, as without a C++ compiler, as it is, with a warning.

    Nothing compiled is kept in copies or files: a copy, and what `toolkit.load` gives back, compiles itself again.
    While somebody watches what goes on inside (hooks on layers, dispatch modes, tracing) it runs as it is too.
    """

    _run: Any = None

    def __init__(self, model: nn.Module) -> None:
        """Hold the model under the name `model`."""
        super().__init__()
        self.model = model

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling() or _is_watched(self.model):
            return self.model(*args, **kwargs)
        if self._run is None:
            self._run = torch.compile(self.model)
        try:
            # Always in the same modes, for it is compiled anew for each.
            with torch.inference_mode(False), torch.no_grad():
                return self._run(*args, **kwargs)
        except Exception as problem:
            expected = self.model(*args, **kwargs)  # if this fails too, the inputs are at fault
            warnings.warn(f"it runs without being compiled, which failed: {problem}", RuntimeWarning, stacklevel=2)
            self._run = self.model
            return expected

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_run"}


def _is_watched(model: nn.Module) -> bool:
    if torch._C._len_torch_dispatch_stack() or torch._C._len_torch_function_stack():
        return True
    return any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
