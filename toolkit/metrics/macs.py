"""Multiply-accumulates of a model for one sample."""

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
from toolkit.metrics.support.metric import COUNT, EXACT, Metric, Quantity
from toolkit.number_text import count_text, plain
from toolkit.replacements import Replacement, replaced_layers

Cost: TypeAlias = Callable[[Any, Any], int]  # of a call, given its inputs and its output

_PER_OUTPUT = frozenset({"Linear", "Bilinear", "Conv1d", "Conv2d", "Conv3d"})
_PER_INPUT = frozenset({"ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"})
_PER_STEP = frozenset({"LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell"})
_LOOK_UP = frozenset({"Embedding", "EmbeddingBag"})
_AS_IT_RUNS = frozenset({"MultiheadAttention"})  # consists of operations and layers that are counted


@torch.no_grad()
def macs(model: nn.Module, data: Data) -> int:
    """Return the multiply-accumulates for one sample in eval mode, as if all arithmetic were dense.

    Zeros count: dense kernels do not skip them, so a masked weight costs as much as any other. A replaced layer costs
    as much as the layer that it stands for. Matrix products, convolutions (with padding), attention and recurrent
    layers are counted; biases, activations, norms, pooling and look-ups are not.

    PyTorch's `FlopCounterMode` counts the operations that run, two per multiply-accumulate. It does not see int8
    kernels, LSTMs on the CPU and fused attention, which are counted by formula.

    Args:
        model: on `data.device`; unchanged afterwards.
        data: its task runs the model on the first training sample, a batch of one.

    Raises:
        ToolkitError: a layer replaces a class of `torch.nn` that has no formula.
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
    """Multiply-accumulates so far, counted by operation, and in some layers by formula."""

    def __init__(self) -> None:
        self.operations = FlopCounterMode(display=False, custom_mapping=_MISSING)
        self.correction = 0
        self.at_entry: list[int] = []

    @property
    def macs(self) -> int:
        return self.operations.get_total_flops() // 2 + self.correction

    def replace(self, module: nn.Module, cost: Cost, hooks: ExitStack) -> None:
        """Count a call of `module` as `cost(inputs, output)`, whatever operations it runs, until `hooks` closes."""

        def enter(*_: Any) -> None:
            self.at_entry.append(self.macs)

        def leave(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            inputs = tree_leaves((args, kwargs))[0]
            self.correction += self.at_entry.pop() + cost(inputs, output) - self.macs

        hooks.callback(module.register_forward_pre_hook(enter).remove)
        hooks.callback(module.register_forward_hook(leave, with_kwargs=True).remove)


def _by_formula(model: nn.Module) -> Iterator[tuple[nn.Module, Cost]]:
    costs: dict[nn.Module, Cost] = {}
    _add_replaced(costs, model)
    inside = {part for module in costs for part in module.modules()}
    for module in model.modules():
        if module in inside:
            continue
        if isinstance(module, nn.RNNBase):
            matrices = [weight for weights in module.all_weights for weight in weights if weight.dim() > 1]
            costs[module] = _cost_per_step(matrices)
        elif isinstance(module, nn.Bilinear):
            costs[module] = _cost_per_output([module.weight])
    yield from costs.items()


def _add_replaced(costs: dict[nn.Module, Cost], model: nn.Module) -> None:
    for layer in replaced_layers(model):
        if layer.replaces not in _AS_IT_RUNS:
            costs[layer.module] = _cost_of_replaced(layer)
        else:
            for child in layer.module.children():
                _add_replaced(costs, child)


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
    """Return the cost of weights (outputs, …): each output value sums as many products as its channel has weights."""
    products = sum(weight[0].numel() for weight in weights)
    return lambda _inputs, output: products * output.numel()


def _cost_per_input(weights: Sequence[Tensor]) -> Cost:
    """Return the cost of weights (inputs, …): each input value is multiplied by all weights of its channel."""
    products = sum(weight[0].numel() for weight in weights)
    return lambda inputs, _output: products * inputs.numel()


def _cost_per_step(weights: Sequence[Tensor]) -> Cost:
    """Return the cost of weight matrices that are multiplied once per time step, in all layers and directions."""
    products = sum(weight.numel() for weight in weights)

    def cost(inputs: Any, _output: Any) -> int:
        steps = inputs.data  # a tensor, or the steps of a packed sequence without padding
        return products * (steps.numel() // steps.shape[-1])

    return cost


@contextmanager
def _unfused_attention() -> Iterator[None]:
    """Run attention as operations that can be counted; in eval mode PyTorch runs one operation per layer."""
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


# Operations that PyTorch's counter does not know; the functions return floating-point operations, given shapes.
_MISSING = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten.mv: _mv,
    torch.ops.aten.dot: _mv,
    torch.ops.aten.addmv: _addmv,
}


METRIC = Metric(
    lambda subject: {"macs": macs(subject.model, subject.data)},
    (
        Quantity(
            "macs",
            plain,
            "multiply-accumulates for one sample, zeros included",
            better="lower",
            title="MACs",
            cell=count_text,
            dispensable=99,
            bounds=COUNT,
            comparison=EXACT,
        ),
    ),
    order=30,
    place=70,
)
