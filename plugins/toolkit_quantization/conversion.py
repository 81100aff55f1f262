"""Layers replaced by their successors."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from toolkit import masks
from toolkit_quantization.engines import Engine
from toolkit_quantization.layers import Dtype
from toolkit_quantization.selection import groups


class Conversion:
    """A model whose layers can be quantized, all or some of them; it stays as it is.

    Args:
        model: on its device.
        dtypes: of the layers that are quantized, by name.
        engine: makes their successors, each once.
    """

    def __init__(self, model: nn.Module, dtypes: Mapping[str, Dtype], engine: Engine) -> None:
        self.model, self.groups = model, groups(model, dtypes)
        modules = dict(model.named_modules())
        with torch.no_grad():
            self._successors = {name: engine.successor(modules[name], dtype) for name, dtype in dtypes.items()}
        for names in self.groups:
            _share([self._successors[name] for name in names])

    def of(self, layers: Collection[str]) -> nn.Module:
        """A copy of the model in which these layers are quantized; copies share what was made of a layer."""
        twin = masks.clone(self.model)
        modules = dict(twin.named_modules())
        replacing: dict[nn.Module | None, nn.Module] = {modules[name]: self._successors[name] for name in layers}
        for parent in list(twin.modules()):
            for name, child in parent._modules.items():
                parent._modules[name] = replacing.get(child, child)
        _leave_fused_paths(twin)
        return replacing.get(twin, twin).eval()


def _share(successors: Collection[nn.Module]) -> None:
    """Let layers that shared a tensor share what became of it; of two, one may be masked and have become another."""
    known: dict[str, list[Tensor]] = {}
    for module in successors:
        for path, buffer in list(module.named_buffers()):
            parent, _, name = path.rpartition(".")
            equal = next((other for other in known.get(name, []) if _equal(other, buffer)), None)
            if equal is None:
                known.setdefault(name, []).append(buffer)
            else:
                module.get_submodule(parent).register_buffer(name, equal)


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)


def _leave_fused_paths(model: nn.Module) -> None:
    # In eval mode these two hand the float weights of the layers within them to one fused function.
    for module in model.modules():
        if any(hasattr(inner, "replaces") for inner in module.modules()):
            if isinstance(module, nn.TransformerEncoderLayer):
                module.activation_relu_or_gelu = 0
            elif isinstance(module, nn.TransformerEncoder):
                module.use_nested_tensor = False
