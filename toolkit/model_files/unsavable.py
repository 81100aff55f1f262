"""The parts of a model that no file can hold: hooks, lambdas, inner classes, tensors and modules in attributes."""

from __future__ import annotations

import inspect
from collections.abc import Container
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize
from torch.utils._pytree import tree_leaves

from toolkit.errors import ArtifactError
from toolkit.model_files.origins import MODULE_ATTRIBUTES, has_origin
from toolkit.model_files.safe.allowed import SAME_FUNCTIONS, is_method
from toolkit.model_files.safe.structure import HOOKS


def refuse_by_name(model: nn.Module) -> None:
    """Raise an `ArtifactError` that names the first module that no file can hold, and says what to do."""
    registered = set(model.modules())
    for path, module in model.named_modules():
        where = f"{type(module).__name__} '{path}'" if path else type(module).__name__
        if any(is_lazy(parameter) for parameter in module._parameters.values()):
            raise ArtifactError(f"{where} has no weights yet; run the lazy model on a batch first")
        # Weight norm registers one for reading old files, which is not needed here.
        unused = "_load_state_dict_pre_hooks" if parametrize.is_parametrized(module) else None
        if any(getattr(module, hooks, None) for hooks in HOOKS if hooks != unused):
            raise ArtifactError(
                f"{where} has hooks, which cannot be saved; remove them or move their code into forward"
            )
        kind = parametrize.type_before_parametrizations(module)
        if "<locals>" in kind.__qualname__ and not has_origin(kind):
            raise ArtifactError(
                f"{where} is defined inside a function and cannot be saved; define it at the top of a module"
            )
        if "." in kind.__qualname__ and not has_origin(kind):
            raise ArtifactError(f"{where} is defined inside a class and cannot be saved; define it outside the class")
        for name, value in vars(module).items():
            # The weights of an LSTM, which keeps the list up to date by itself.
            if name not in MODULE_ATTRIBUTES and not (isinstance(module, nn.RNNBase) and name == "_flat_weights"):
                _refuse_attribute(where, name, value, registered)


def _refuse_attribute(
    where: str, name: str, value: Any, registered: Container[nn.Module], in_partial: bool = False
) -> None:
    for leaf in tree_leaves(value):
        if isinstance(leaf, Tensor):
            raise ArtifactError(f"{where} has a tensor in the attribute '{name}'; use register_buffer('{name}', …)")
        if inspect.isfunction(leaf) and "<" in leaf.__qualname__ and (in_partial or not has_origin(leaf)):
            raise ArtifactError(f"{where} has a lambda or inner function in '{name}'; use a top-level function")
        if isinstance(leaf, nn.Module) and leaf not in registered and leaf.state_dict():
            raise ArtifactError(f"{where} has a module in '{name}' that is not registered; use nn.ModuleList")
        if is_method(leaf) and not (leaf is value and leaf in tuple(SAME_FUNCTIONS)):
            raise ArtifactError(f"{where} has the method '{leaf.__name__}' in '{name}'; use a top-level function")
        if isinstance(leaf, partial):
            _refuse_attribute(where, name, [leaf.func, *leaf.args, *leaf.keywords.values()], registered, True)
