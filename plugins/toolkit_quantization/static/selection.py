"""Which layers run in integers, and why the others stay in float."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn
from torch.nn.utils import parametrize

from toolkit import TechniqueError
from toolkit_quantization.codecs import Dtype
from toolkit_quantization.engines import ENGINES
from toolkit_quantization.params import Params
from toolkit_quantization.selection import reasons, select, weights_by_layer
from toolkit_quantization.static.network import static_networks
from toolkit_quantization.static.norm_folding import NORMS

KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def selected(model: nn.Module, static: nn.Module, params: Params, untraced: Mapping[str, str]) -> dict[str, Dtype]:
    """Return the dtype of each layer to quantize, by name.

    Args:
        model: the model as it came.
        static: the same with static networks in it.
        params: what the recipe selects.
        untraced: why parts of it are no static networks, by path.

    Raises:
        TechniqueError: a pattern matches nothing, no layer is left, or a weight is not initialized or not finite.
    """
    asked = select(model, params, ENGINES["toolkit"])
    why = static_reasons(static, params, untraced)
    chosen = {layer: dtype for layer, dtype in asked.items() if layer in why and why[layer] is None}
    if not chosen:
        listed = "; ".join(sorted({str(why[layer]) for layer in asked if layer in why}))
        raise TechniqueError(f"nothing to quantize with static activations: {listed}; choose activations 'dynamic'")
    return chosen


def static_reasons(static: nn.Module, params: Params, untraced: Mapping[str, str]) -> dict[str, str | None]:
    """Return the reason why each layer with weights stays in float, None if it is quantized."""
    called = _called(static)
    why = reasons(static, params, ENGINES["toolkit"])
    for layer in weights_by_layer(static):
        module = static.get_submodule(layer)
        if isinstance(module, NORMS):
            why[layer] = "no layer before it that it can be folded into"
        elif why[layer] is None:
            why[layer] = _why_not_static(layer, module, called, untraced)
    return why


def _why_not_static(layer: str, module: nn.Module, called: set[str], untraced: Mapping[str, str]) -> str | None:
    kind = parametrize.type_before_parametrizations(module)
    if not issubclass(kind, KINDS):
        return f"{kind.__name__}: has no static arithmetic"
    if layer in called:
        return None
    parts = [path for path in untraced if not path or layer.startswith(f"{path}.")]
    return f"it cannot be traced: {untraced[max(parts, key=len)]}" if parts else "the module around it calls it"


def _called(static: nn.Module) -> set[str]:
    return {
        f"{path}.{operation.target}".lstrip(".")
        for path, network in static_networks(static).items()
        for operation in network.program
        if operation.kind == "layer"
    }
