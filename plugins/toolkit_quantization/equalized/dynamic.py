"""Equalization before a dynamic quantization, in which only layers with int8 products round their inputs."""

from __future__ import annotations

from torch import nn

from toolkit import Data, masks
from toolkit_quantization.conversion_cost import require_equal
from toolkit_quantization.engines import ENGINES
from toolkit_quantization.equalized.network import Equalization, equalize
from toolkit_quantization.layers import can_multiply_int8
from toolkit_quantization.params import Params
from toolkit_quantization.reading import read_layers
from toolkit_quantization.selection import arithmetic_of, select


def equalized(model: nn.Module, params: Params, data: Data) -> tuple[nn.Module, Equalization]:
    """Return a copy of a model that computes the same from other scales, and what was moved in it.

    Raises:
        TechniqueError: nothing can be quantized, there are no samples, or the copy computes something else.
    """
    twin = masks.clone(model)
    made = equalize(twin, _rounding(model, params), data, params.calibration.samples)
    require_equal(model, twin, data, "the equalized network", "leave equalize out")
    return twin, made


def _rounding(model: nn.Module, params: Params) -> list[str]:
    """Return the layers that may round their inputs."""
    read = read_layers(model)
    engine = ENGINES["toolkit" if params.engine == "auto" else params.engine]
    dtypes = select(model, params, engine).items()
    able = [layer for layer, dtype in dtypes if dtype == "int8" and arithmetic_of(layer, params) != "float"]
    modules = {layer: model.get_submodule(layer) for layer in able}
    return [layer for layer, module in modules.items() if can_multiply_int8(module) and module not in read]
