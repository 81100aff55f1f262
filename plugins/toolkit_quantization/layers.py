"""Which layers can be stored in fewer bits, and the layers that replace them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from toolkit import masks
from toolkit.attention import NarrowAttention
from toolkit_quantization import codecs
from toolkit_quantization.attention import IN, Int8Attention
from toolkit_quantization.codecs import Dtype, Encoded, Int8
from toolkit_quantization.int8 import MAX_INPUTS, Int8Linear
from toolkit_quantization.stored import Stored, StoredEmbedding, StoredEmbeddingBag, StoredWeight

Arithmetic = Literal["int8", "float"]
Made = TypeVar("Made")

_CONVOLUTIONS = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)
_RECURRENT = (nn.LSTM, nn.GRU, nn.RNN)
_CELLS = (nn.LSTMCell, nn.GRUCell, nn.RNNCell)
# TransformerEncoderLayer and its like are made of these.
KINDS: tuple[type[nn.Module], ...] = (
    *(nn.Linear, *_CONVOLUTIONS, nn.Embedding, nn.EmbeddingBag),
    *(*_RECURRENT, *_CELLS, nn.MultiheadAttention),
)
_ATTENTION = {
    *("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight"),
    *("in_proj_bias", "bias_k", "bias_v", "out_proj.bias"),
}


READ = "the module around it reads its weight instead of calling it"


class Encodings:
    """The encodings made so far: layers that share a weight share its encoding.

    `group` inputs share a scale in int4 and int2, or with 0 all inputs of a row.
    """

    def __init__(self, group: int = codecs.GROUP) -> None:
        self.group = group
        self._made: dict[tuple[int, str], tuple[Tensor, Tensor, Any]] = {}

    def keep(self, weight: masks.Weight, name: str, made: Any) -> None:
        """Return `made` from now on, for this weight and this name."""
        self._made[id(weight.parameter), name] = weight.parameter, weight.value, made

    def encoded(self, weight: masks.Weight, dtype: Dtype) -> Encoded:
        """Return a weight as its layer sees it, encoded."""
        return self.of(weight, lambda value: codecs.encode(value, dtype, self.group), dtype)

    def of(self, weight: masks.Weight, make: Callable[[Tensor], Made], name: str) -> Made:
        """Return the result of `make` for a weight as its layer sees it; `name` identifies `make`."""
        key, value = (id(weight.parameter), name), weight.value
        known = self._made.get(key)
        if known is None or not torch.equal(known[1], value):  # only one of two sharing layers may be masked
            # Keep the parameter, so that no other one can get its id.
            self._made[key] = known = weight.parameter, value, make(value)
        made: Made = known[2]
        return made


def kind_of(module: nn.Module) -> type[nn.Module] | None:
    """Return the class of `torch.nn` that a layer belongs to, None if no such layer can be stored in fewer bits."""
    return next((kind for kind in KINDS if isinstance(module, kind)), None)


def why_float(module: nn.Module, dtype: Dtype = "int8") -> str | None:
    """Return why a layer cannot be stored in fewer bits; None if it can, or if it is lazy and has no weights yet."""
    own: Any = parametrize.type_before_parametrizations(module)
    kind: Any = kind_of(module)
    if kind is None:
        return f"{own.__name__}: not a kind of layer that is quantized"
    if own is nn.modules.linear.NonDynamicallyQuantizableLinear:
        return READ
    is_plain = own.forward is kind.forward or own is NarrowAttention
    if not is_plain or "forward" in vars(module):
        return f"{own.__name__} has a forward of its own"
    weights = {weight.path: weight for weight in masks.named_weights(module)}
    unknown = weights.keys() - _names(module)
    if unknown or not any(map(is_encoded, weights)):
        return f"its weights are {', '.join(sorted(weights))}"
    if any(is_lazy(weight.parameter) for weight in weights.values()):
        return None
    if any(part._forward_hooks or part._forward_pre_hooks for part in module.modules()):
        return "it has hooks, which would be lost"
    if getattr(module, "max_norm", None) is not None:
        return "max_norm changes its weights when it is called"
    return codecs.why_not([weight.value for weight in weights.values() if is_encoded(weight.path)], dtype)


def can_multiply_int8(module: nn.Module) -> bool:
    """Return whether a layer for which `why_float` is None has int8 products."""
    if isinstance(module, nn.Linear):
        return module.in_features <= MAX_INPUTS
    if isinstance(module, nn.MultiheadAttention):
        plain = module.bias_k is None and module.bias_v is None and not module.add_zero_attn
        return plain and max(module.embed_dim, module.kdim, module.vdim) <= MAX_INPUTS
    return False


def successor(
    module: nn.Module, dtype: Dtype = "int8", arithmetic: Arithmetic = "float", encodings: Encodings | None = None
) -> nn.Module:
    """Return the layer that replaces a layer, which does not change.

    Args:
        module: a layer for which `why_float` is None; of a parametrized weight, the value that the layer sees counts.
        dtype: the dtype to store the weights in.
        arithmetic: `int8` for int8 products, which round their inputs row by row, if the layer has them and the weights
            are int8; `float` for the layer's own arithmetic. The stored weights are the same either way.
        encodings: the same object for all layers of a model, so that shared weights stay shared.
    """
    encodings = Encodings() if encodings is None else encodings
    values: dict[str, Encoded | Tensor] = {}
    for weight in masks.named_weights(module):
        if is_encoded(weight.path):
            values[weight.path] = encodings.encoded(weight, dtype)
        else:
            values[weight.path] = encodings.of(weight, Tensor.clone, "copy")
    if arithmetic == "int8" and dtype == "int8" and can_multiply_int8(module):
        return _multiplying(module, values)
    kind: Any = kind_of(module)
    several = kind in (*_RECURRENT, *_CELLS, nn.MultiheadAttention)
    own = {nn.Embedding: StoredEmbedding, nn.EmbeddingBag: StoredEmbeddingBag}
    made = Stored if several else own.get(kind, StoredWeight)
    return made(masks.folded(module), kind.__name__, values)


def wholes(model: nn.Module) -> dict[nn.Module, str]:
    """Return the path of the whole layer for each part of a layer that keeps weights in parts."""
    attentions = [(path, module) for path, module in model.named_modules() if isinstance(module, nn.MultiheadAttention)]
    called = [(path, module) for path, module in attentions if type(module).forward is nn.MultiheadAttention.forward]
    return {part: path for path, module in called for part in module.modules()}


def converted(model: nn.Module) -> Iterator[tuple[str, Stored | Int8Linear | Int8Attention]]:
    """Yield the layers that are stored in fewer bits, with their paths."""
    inside: set[nn.Module] = set()
    for path, module in model.named_modules():
        if isinstance(module, Stored | Int8Linear | Int8Attention) and module not in inside:
            inside.update(module.modules())
            yield path, module


def is_encoded(path: str) -> bool:
    """Return whether a parameter of a layer is stored in fewer bits: a weight is, a bias is not."""
    return "bias" not in path.rpartition(".")[2]


def _names(module: Any) -> set[str]:
    """Return the paths of the parameters that a layer of its kind can have."""
    if isinstance(module, nn.MultiheadAttention):
        return _ATTENTION
    if isinstance(module, nn.RNNBase):
        return set(module._flat_weights_names)
    return {"weight_ih", "weight_hh", "bias_ih", "bias_hh"} if isinstance(module, _CELLS) else {"weight", "bias"}


def _multiplying(module: nn.Module, values: Mapping[str, Any]) -> nn.Module:
    if not isinstance(module, nn.MultiheadAttention):
        return _int8_linear(values["weight"], values.get("bias"))
    if module._qkv_same_embed_dim:
        whole: Int8 = values["in_proj_weight"]
        weights = list(zip(whole.values.chunk(3), whole.scale.chunk(3), strict=True))
    else:
        parts: list[Int8] = [values[f"{name[0]}_proj_weight"] for name in IN]
        weights = [(part.values, part.scale) for part in parts]
    bias = values.get("in_proj_bias")
    biases = [None] * 3 if bias is None else bias.float().chunk(3)
    made = {name: Int8Linear(*weight, bias) for name, weight, bias in zip(IN, weights, biases, strict=True)}
    return Int8Attention(
        module, {**made, "output": _int8_linear(values["out_proj.weight"], values.get("out_proj.bias"))}
    )


def _int8_linear(weight: Int8, bias: Tensor | None) -> Int8Linear:
    return Int8Linear(weight.values, weight.scale, None if bias is None else bias.float())
