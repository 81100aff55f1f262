"""Replaces layers by their quantized successors."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import nn

from toolkit import masks, replace_layers
from toolkit_quantization import layers
from toolkit_quantization.arithmetic import Choice
from toolkit_quantization.codecs import Dtype
from toolkit_quantization.engines import Engine
from toolkit_quantization.selection import groups


class Conversion:
    """A model of which any of the selected layers can be quantized, in copies; the model itself does not change.

    Args:
        model: on its device.
        dtypes: those of the selected layers, by name.
        engine: makes each successor once; layers that shared weights still share them.
        choices: the arithmetic of each of these layers.
        encodings: weights of the model that are rounded already.
    """

    def __init__(
        self,
        model: nn.Module,
        dtypes: Mapping[str, Dtype],
        engine: Engine,
        choices: Mapping[str, Choice],
        encodings: layers.Encodings | None = None,
    ) -> None:
        self.model, self.groups, self.choices = model, groups(model, dtypes), choices
        encodings = layers.Encodings() if encodings is None else encodings
        with torch.no_grad():
            self._successors = {
                name: engine.successor(model.get_submodule(name), dtype, choices[name].arithmetic, encodings)
                for name, dtype in dtypes.items()
            }

    def of(self, names: Collection[str]) -> nn.Module:
        """Return a copy of the model in which these layers are quantized; all copies share the successors."""
        twin = masks.clone(self.model)
        successors = {twin.get_submodule(name): self._successors[name] for name in names}
        return replace_layers(twin, successors).eval()
