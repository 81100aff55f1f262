"""Attentions: each head is one unit, with its rows of queries, keys and values, and the columns that read it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from torch import Tensor, nn

from toolkit.attention import NarrowAttention
from toolkit.structure.arguments import UnclearError
from toolkit.structure.slots import SAMPLES, Slots, whole_groups
from toolkit.structure.units import Numbers
from toolkit.structure.values import Channels
from toolkit.structure.windows import narrow_windows

Rule: TypeAlias = Callable[[Slots, str, Any, Sequence[Tensor]], Any]
"""Returns what is known of an attention's outputs, from its path, the layer, and the tensors that come in."""


class Kind(NamedTuple):
    """An attention of linear layers, and where it states the number of its heads.

    Attributes:
        rule: what it does with its heads.
        heads: attribute with the number of heads.
        size: attribute with the size of a head, which stays.
        widths: attributes with the number of heads times their size.
        becomes: makes it work with fewer heads, in place.
    """

    rule: Rule
    heads: str
    size: str = ""
    widths: tuple[str, ...] = ()
    becomes: Callable[[Any], None] = lambda _: None


def heads_of(slots: Slots, weights: Sequence[str], biases: Sequence[str], count: int) -> Numbers:
    """Return the unit of each row of the values, one per head; queries, keys and values are in one weight or three."""
    made = [slots.made_by(path, 0) for path in weights]
    for path, units in zip(biases, made, strict=False):
        slots.bind(path, 0, "output", units)
    rows = np.concatenate(made).reshape(3, count, -1)
    heads = whole_groups(slots.units, np.ascontiguousarray(rows.swapaxes(0, 1)).ravel(), count)
    return np.repeat(heads, rows.shape[2])


def multihead(slots: Slots, path: str, layer: Any, inputs: Sequence[Tensor]) -> Any:
    """The heads of `nn.MultiheadAttention`."""
    if layer.bias_k is not None or layer.add_zero_attn:
        raise UnclearError("adds keys and values that no input has")
    names = ["in_proj_weight"] if layer.in_proj_weight is not None else [f"{name}_proj_weight" for name in "qkv"]
    weights, output = [_at(path, name) for name in names], _at(path, "out_proj.weight")
    units = heads_of(slots, weights, [], layer.num_heads)
    if layer.in_proj_bias is not None:
        rows = [slots.made_by(weight, 0) for weight in weights]
        slots.bind(_at(path, "in_proj_bias"), 0, "output", np.concatenate(rows))
    slots.bind(output, 1, "input", units)
    places = [tensor.numel() / tensor.shape[-1] / SAMPLES for tensor in inputs]
    for weight, read in zip(weights, [sum(places) / len(places)] if len(weights) == 1 else places, strict=False):
        slots.multiplied(weight, read)
    slots.multiplied(output, places[0])


def _fused(slots: Slots, path: str, layer: Any, inputs: Sequence[Tensor]) -> Any:
    """Heads that `qkv` makes and `proj` reads, with a table of biases if it has one."""
    if isinstance(getattr(layer, "norm", None), nn.LayerNorm) or getattr(layer, "gate", None) is not None:
        raise UnclearError("has a norm or a gate over all heads")
    units = _linear_heads(slots, path, layer, ["qkv"], inputs[0], layer.num_heads)
    _read_by(slots, path, layer.proj, "proj", units, inputs[0])
    table = _at(path, "relative_position_bias_table")
    if slots.has(table):
        slots.bind(table, 1, "norm", np.ascontiguousarray(units.reshape(layer.num_heads, -1)[:, 0]))


def _bert(slots: Slots, path: str, layer: Any, inputs: Sequence[Tensor]) -> Any:
    names = ["query", "key", "value"]
    units = _linear_heads(slots, path, layer, names, inputs[0], layer.num_attention_heads)
    return Channels(inputs[0].dim() - 1, units), None


def _distilbert(slots: Slots, path: str, layer: Any, inputs: Sequence[Tensor]) -> Any:
    units = _linear_heads(slots, path, layer, ["q_lin", "k_lin", "v_lin"], inputs[0], layer.n_heads)
    _read_by(slots, path, layer.out_lin, "out_lin", units, inputs[0])


def _linear_heads(slots: Slots, path: str, layer: Any, names: Sequence[str], inputs: Tensor, count: int) -> Numbers:
    parts = [getattr(layer, name) for name in names]
    _require_linear(parts)
    weights = [_at(path, f"{name}.weight") for name in names]
    biases = [_at(path, f"{name}.bias") for name, part in zip(names, parts, strict=True) if part.bias is not None]
    for weight in weights:
        slots.multiplied(weight, inputs.numel() / inputs.shape[-1] / SAMPLES)
    return heads_of(slots, weights, biases, count)


def _read_by(slots: Slots, path: str, part: Any, name: str, units: Numbers, inputs: Tensor) -> None:
    _require_linear([part])
    slots.bind(_at(path, f"{name}.weight"), 1, "input", units)
    slots.multiplied(_at(path, f"{name}.weight"), inputs.numel() / inputs.shape[-1] / SAMPLES)


def _require_linear(parts: Sequence[Any]) -> None:
    if any(type(part) is not nn.Linear for part in parts):
        raise UnclearError("has projections that are no linear layers")


def _at(path: str, name: str) -> str:
    return f"{path}.{name}".lstrip(".")


KINDS: dict[str, Kind] = {
    "timm.layers.attention.Attention": Kind(_fused, "num_heads", "head_dim", ("attn_dim",)),
    "timm.models.swin_transformer.WindowAttention": Kind(_fused, "num_heads"),
    "torchvision.models.swin_transformer.ShiftedWindowAttention": Kind(_fused, "num_heads", becomes=narrow_windows),
    "toolkit.structure.windows.NarrowWindowAttention": Kind(_fused, "num_heads"),
    "transformers.models.bert.modeling_bert.BertSelfAttention": Kind(
        _bert, "num_attention_heads", "attention_head_size", ("all_head_size",)
    ),
    "transformers.models.distilbert.modeling_distilbert.DistilBertSelfAttention": Kind(
        _distilbert, "n_heads", "attention_head_size"
    ),
}
"""Attentions of other packages, which are not imported for this, by class."""


def kind_of(layer: nn.Module) -> Kind | None:
    """Return what is known of an attention of another package: of its class, or the one that it has `forward` from."""
    for each in type(layer).__mro__:
        kind = KINDS.get(f"{each.__module__}.{each.__qualname__}")
        if kind is not None:
            return kind if type(layer).forward is each.__dict__["forward"] else None
    return None


def rule_of(layer: nn.Module) -> Rule | None:
    """Return the rule of an attention; None for another layer."""
    kind = kind_of(layer)
    if kind is not None:
        return kind.rule
    return multihead if type(layer).forward in (nn.MultiheadAttention.forward, NarrowAttention.forward) else None


def state_heads(model: nn.Module, attentions: Sequence[str]) -> None:
    """Set the numbers of heads that attentions of other packages state, in place, once heads have been cut out."""
    for path in attentions:
        layer = model.get_submodule(path)
        kind = kind_of(layer)
        if kind is not None and _count(layer, kind) != getattr(layer, kind.heads):
            kind.becomes(layer)
            setattr(layer, kind.heads, _count(layer, kind))
            for name in kind.widths:
                setattr(layer, name, _count(layer, kind) * getattr(layer, kind.size))


def _count(layer: Any, kind: Kind) -> int:
    table = getattr(layer, "relative_position_bias_table", None)
    if table is not None:
        return int(table.shape[1])
    rows: Tensor = layer.qkv.weight[::3] if hasattr(layer, "qkv") else next(layer.children()).weight
    return len(rows) // int(getattr(layer, kind.size))
