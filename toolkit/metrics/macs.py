"""How much arithmetic a model does for one sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from math import prod
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from toolkit.data.splits import Data
from toolkit.errors import ToolkitError
from toolkit.metrics.support.deployed import as_deployed
from toolkit.metrics.support.metric import Metric, Quantity
from toolkit.number_text import count_text
from toolkit.replacements import Replacement, replaced_layers

Cost: TypeAlias = Callable[[Any, Any], int]  # of one call, from its inputs and its output

_PER_OUTPUT = frozenset({"Linear", "Bilinear", "Conv1d", "Conv2d", "Conv3d"})
_PER_INPUT = frozenset({"ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"})
_PER_STEP = frozenset({"LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell"})
_LOOK_UP = frozenset({"Embedding", "EmbeddingBag"})
_AS_IT_RUNS = frozenset({"MultiheadAttention"})  # made of operations that are counted, and of layers


@torch.no_grad()
def macs(model: nn.Module, data: Data) -> int:
    """The multiply-accumulates of one sample in eval mode, as if all arithmetic were dense.

    Zeros are counted: a masked weight costs what a full one costs, because dense kernels do not skip it, and
    a replaced layer costs what the layer that it stands for costs. Counted are matrix products, convolutions
    (with padding), attention and recurrent layers; not biases, activations, norms, pooling and look-ups.

    PyTorch's `FlopCounterMode` counts what runs, two operations for a multiply-accumulate. It sees nothing of
    int8 kernels, of LSTMs on the CPU and of fused attention, so those are counted by formula instead.

    Args:
        model: on `data.device`; left without a trace.
        data: its task feeds the first training sample, as a batch of one, to the model.

    Raises:
        ToolkitError: a layer that replaces a class of `torch.nn` whose arithmetic is not known here.
    """
    batch = data.example(1)
    with as_deployed(model) as deployed, _unfused_attention(), ExitStack() as hooks:
        counter = _Counter()
        for module, cost in _by_formula(deployed):
            counter.replace(module, cost, hooks)
        with counter.operations:
            data.task.forward(deployed, batch)
        return counter.macs


class _Counter:
    """Multiply-accumulates so far: those of operations, but within some layers those of a formula."""

    def __init__(self) -> None:
        self.operations = FlopCounterMode(display=False, custom_mapping=_MISSING)
        self.correction = 0
        self.at_entry: list[int] = []

    @property
    def macs(self) -> int:
        return self.operations.get_total_flops() // 2 + self.correction

    def replace(self, module: nn.Module, cost: Cost, hooks: ExitStack) -> None:
        """Count calls of `module` as `cost(inputs, output)`, whatever runs inside, until `hooks` closes."""

        def enter(*_: Any) -> None:
            self.at_entry.append(self.macs)

        def leave(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            inputs = tree_leaves((args, kwargs))[0]
            self.correction += self.at_entry.pop() + cost(inputs, output) - self.macs

        hooks.callback(module.register_forward_pre_hook(enter).remove)
        hooks.callback(module.register_forward_hook(leave, with_kwargs=True).remove)


def _by_formula(model: nn.Module) -> Iterator[tuple[nn.Module, Cost]]:
    found: dict[nn.Module, Cost] = {}
    _add_replaced(found, model)
    inside = {part for module in found for part in module.modules()}
    for module in model.modules():
        if module in inside:
            continue
        if isinstance(module, nn.RNNBase):
            matrices = [weight for weights in module.all_weights for weight in weights if weight.dim() > 1]
            found[module] = _cost_per_step(matrices)
        elif isinstance(module, nn.Bilinear):
            found[module] = _cost_per_output([module.weight])
    yield from found.items()


def _add_replaced(found: dict[nn.Module, Cost], model: nn.Module) -> None:
    for layer in replaced_layers(model):
        if layer.replaces not in _AS_IT_RUNS:
            found[layer.module] = _cost_of_replaced(layer)
        else:
            for child in layer.module.children():
                _add_replaced(found, child)


def _cost_of_replaced(layer: Replacement) -> Cost:
    weights = list(layer.weights.values())
    if layer.replaces in _PER_OUTPUT:
        return _cost_per_output(weights)
    if layer.replaces in _PER_INPUT:
        return _cost_per_input(weights)
    if layer.replaces in _PER_STEP:
        return _cost_per_step(weights)
    if layer.replaces in _LOOK_UP:
        return lambda _inputs, _output: 0
    known = ", ".join(sorted(_PER_OUTPUT | _PER_INPUT | _PER_STEP | _LOOK_UP | _AS_IT_RUNS))
    raise ToolkitError(f"cannot count the MACs of '{layer.path}', which replaces {layer.replaces!r}; known: {known}")


def _cost_per_output(weights: Sequence[Tensor]) -> Cost:
    """Weights are (outputs, …): a value put out is a sum of as many products as its channel has weights."""
    products = sum(weight[0].numel() for weight in weights)
    return lambda _inputs, output: products * output.numel()


def _cost_per_input(weights: Sequence[Tensor]) -> Cost:
    """Weights are (inputs, …): a value put in is multiplied by all weights of its channel."""
    products = sum(weight[0].numel() for weight in weights)
    return lambda inputs, _output: products * inputs.numel()


def _cost_per_step(weights: Sequence[Tensor]) -> Cost:
    """Every weight matrix, of all layers and directions, meets every time step once."""
    products = sum(weight.numel() for weight in weights)

    def cost(inputs: Any, _output: Any) -> int:
        steps = inputs.data  # of a tensor itself; of a packed sequence its steps without padding
        return products * (steps.numel() // steps.shape[-1])

    return cost


@contextmanager
def _unfused_attention() -> Iterator[None]:
    """Attention in operations that can be counted: in eval mode PyTorch calls one for a whole layer."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _mv(matrix: Any, *_: Any, **__: Any) -> int:
    return 2 * prod(matrix)


def _addmv(_: Any, matrix: Any, *__: Any, **___: Any) -> int:
    return 2 * prod(matrix)


# Operations without a formula in PyTorch's counter; shapes in, floating point operations out.
_MISSING = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten.mv: _mv,
    torch.ops.aten.dot: _mv,
    torch.ops.aten.addmv: _addmv,
}


METRIC = Metric(
    lambda subject: {"macs": macs(subject.model, subject.data)},
    (Quantity("macs", count_text, "multiply-accumulates for one sample, as if all were dense", "MACs", 99, 0),),
    order=30,
    place=70,
)
