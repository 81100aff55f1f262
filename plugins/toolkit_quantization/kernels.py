"""The processor's own int8 kernels: faster than `_int_mm`, with the same bits, on weights packed for them.

The packed weight is opaque: it cannot be copied, saved or traced. A layer packs it on its first call, and keeps it out
of its state.
"""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor

INT8_MAX = 127
MIN_ROW_MAX = INT8_MAX * torch.finfo(torch.float32).tiny  # a subnormal scale would be too coarse for ±127
UINT8_ZERO = 128  # the zero of signed bytes, in unsigned ones
MAX_PACKED_ROWS = 127  # for more rows, or one, `_int_mm` is as fast on processors with VNNI
MAX_EXACT_FLOAT32 = 2**24  # float32 holds every integer up to here
EXACT_INPUTS = MAX_EXACT_FLOAT32 // INT8_MAX**2  # inputs whose product float32 holds, whatever their values

# Takes rows (N, in) float32 within ±127, rounds them, and returns their product with the weight, (N, out) float32.
Packed: TypeAlias = Callable[[Tensor], Tensor]

# As tensors: with Python numbers, operations on so few values take twice as long.
_MIN_ROW_MAX, _INT8_MAX, _INFINITY = (
    torch.tensor(value, device="cpu") for value in (MIN_ROW_MAX, float(INT8_MAX), math.inf)
)
_engine = threading.Lock()


def scaled_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the result of `quantize_rows` for rows (N, K) float32 on the CPU, with the same bits, but before rounding.

    The scale of a row with infinity is NaN, because kernels turn what cannot be rounded into an arbitrary number.
    """
    values = rows.abs()
    scale = values.amax(1, True).clamp_min_(_MIN_ROW_MAX).div_(_INT8_MAX).fmod_(_INFINITY)
    return torch.div(rows, scale, out=values), scale


def scaled(outputs: Tensor, row_scale: Tensor, bias: Tensor | None, out: Tensor | None = None) -> Tensor:
    """Return outputs (N, out), which may be overwritten, times a scale per row (N, 1), plus a bias (out,).

    The result of a row depends on that row alone, to the last bit. `out` may be `outputs` itself.
    """
    if bias is None:
        return outputs.mul_(row_scale)
    if ADDS_AND_MULTIPLIES_ALIKE and bias.dtype == torch.float32:
        return torch.addcmul(bias, outputs, row_scale, out=out)
    return outputs.mul_(row_scale).add_(bias)


def _adds_and_multiplies_alike() -> bool:
    """Return whether `addcmul` rounds equally often wherever a value lies in a tensor, as some processors do not."""
    bias, outputs, scale = torch.linspace(1, 9, 3 * 333, device="cpu").frac().reshape(3, 1, 333)
    rows, scales = torch.cat([outputs, outputs.flip(1), outputs]), scale[:, :3].t()
    whole = torch.addcmul(bias, rows, scales)
    parts = [
        torch.addcmul(bias[:, i], row[i], factor) for row, factor in zip(rows, scales, strict=True) for i in range(333)
    ]
    return torch.equal(whole.flatten(), torch.cat(parts))


def fbgemm_packed(weight: Tensor, scale: Tensor) -> Packed:
    """Return the weight (out, in) int8 with scale (out,) for the kernels of FBGEMM, which round as `torch.round`."""
    return _fbgemm(weight, scale, UINT8_ZERO)


def fbgemm_signs_packed(weight: Tensor, scale: Tensor) -> Packed:
    """Return what `fbgemm_packed` does, with the same bits, on processors that add pairs of products in 16 bits, too.

    A pair of products of 8 by 8 bits overflows 16 bits, a pair of 7 by 8 bits does not (2 * 127 * 127 < 2**15). So this
    multiplies the positive and the negative parts of the rows, each 7 bits without a sign, as rows of their own, and
    subtracts the products. Rows without negative values, such as the outputs of ReLU, have only one part.
    """
    sums = weight.int()
    largest = torch.maximum(sums.clamp(min=0).sum(1), -sums.clamp(max=0).sum(1)).max() * INT8_MAX
    width = weight.shape[1] if largest <= MAX_EXACT_FLOAT32 else EXACT_INPUTS
    pieces = [_fbgemm(part, torch.ones(len(weight)), zero=0) for part in weight.split(width, dim=1)]
    scale = scale.float()

    def multiply(rows: Tensor) -> Tensor:
        count = len(rows)
        has_one_part = bool(rows.amin() >= 0)
        parts = rows if has_one_part else _parts(rows)
        products = [piece(part) for piece, part in zip(pieces, parts.split(width, dim=1), strict=True)]
        if not has_one_part:
            products = [both[:count].sub_(both[count:]) for both in products]
        return (products[0] if len(products) == 1 else _sum_of_integers(products)).mul_(scale)

    return multiply


def _sum_of_integers(terms: Iterable[Tensor]) -> Tensor:
    """Return the sum of integers in float32, rounded once: in float32 each addition might round."""
    return torch.stack([term.int() for term in terms]).sum(0, dtype=torch.int32).float()


def _parts(rows: Tensor) -> Tensor:
    """Return the positive parts of rows (N, in) and, below them, the negated negative parts: (2 N, in)."""
    parts = rows.new_empty(2 * len(rows), rows.shape[1])
    positive, negative = parts.chunk(2)
    torch.clamp_min(rows, 0, out=positive)
    torch.sub(positive, rows, out=negative)
    return parts


def _fbgemm(weight: Tensor, scale: Tensor, zero: int) -> Packed:
    packed = linear_prepack(weight, scale, None, engine="fbgemm")
    multiply: Any = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32.default
    multiply = getattr(multiply, "_op", multiply)  # skips a search for fake objects among the arguments of each call
    return lambda rows: multiply(rows, 1.0, zero, packed)


def onednn_packed(weight: Tensor, scale: Tensor) -> Packed:
    """Return the weight (out, in) int8 with scale (out,) for the kernels of oneDNN, which do not round."""
    packed, zeros = torch.ops.onednn.qlinear_prepack(weight, None), torch.zeros(len(weight), dtype=torch.int32)
    scale = scale.float()

    def multiply(rows: Tensor) -> Tensor:
        # Signed bytes would work, but take a thousand times as long without AMX.
        values = (
            rows.round_()
            .to(torch.int8, memory_format=torch.contiguous_format)
            .view(torch.uint8)
            .bitwise_xor_(UINT8_ZERO)
        )
        return torch.ops.onednn.qlinear_pointwise(
            values, 1.0, UINT8_ZERO, packed, scale, zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )

    return multiply


def linear_prepack(weight: Tensor, scale: Tensor, bias: Tensor | None, engine: str | None = None) -> Any:
    """Return parameters of `torch.ops.quantized.linear…`, packed by an engine, by default the current one."""
    zeros = torch.zeros(len(weight), dtype=torch.int64)
    with no_deprecation_warnings(), _engine:
        before = torch.backends.quantized.engine
        try:
            torch.backends.quantized.engine = engine or before
            quantized = torch._make_per_channel_quantized_tensor(weight.contiguous(), scale.double(), zeros, 0)
            return torch.ops.quantized.linear_prepack(quantized, bias)
        finally:
            torch.backends.quantized.engine = before


@contextmanager
def no_deprecation_warnings() -> Iterator[None]:
    """Silence PyTorch's warnings that its quantized dtypes are deprecated."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.ao.quantization is deprecated", DeprecationWarning)
        warnings.filterwarnings("ignore", "torch.quantize_per_tensor, torch.quantize_per_ch", UserWarning)
        yield


def is_exact(pack: Callable[[Tensor, Tensor], Packed]) -> bool:
    """Return whether a kernel exists, rounds as `torch.round`, and does not saturate as most do without VNNI."""
    extreme = torch.full((64, 64), INT8_MAX, dtype=torch.int8, device="cpu")
    halves = torch.arange(-126.5, 127, 0.5, device="cpu").nextafter(torch.zeros((), device="cpu")).split(64)
    rows = torch.stack([*halves[:7], torch.full((64,), float(INT8_MAX), device="cpu")])
    try:
        product = pack(extreme, torch.ones(64, device="cpu"))(rows.clone())
    except (RuntimeError, AttributeError):
        return False
    return torch.equal(product, (rows.round().sum(1, keepdim=True) * INT8_MAX).expand(-1, 64))


class BufferCache:
    """What was computed from a layer's buffers on first use; valid until one of them is replaced or written to.

    An object of its own, because whoever copies or saves a module looks into lists and tuples, and must not find
    tensors there. It holds the buffers, because their ids may be reused by other tensors.
    """

    __slots__ = ("_of", "made")

    def __init__(self, buffers: Mapping[str, Tensor | None], made: Any) -> None:
        self.made = made
        self._of: list[Any] = [
            (name, buffer, None if buffer is None or buffer.is_inference() else buffer._version)
            for name, buffer in buffers.items()
        ]

    def is_of(self, buffers: Mapping[str, Any]) -> bool:
        """Return whether it was computed from these buffers in their present state."""
        for name, buffer, version in self._of:
            if buffers[name] is not buffer or (version is not None and buffer._version != version):
                return False
        return True


def packing_pays(rows: int) -> bool:
    """Return whether a packed weight speeds up the product with so many rows.

    It always does on processors without instructions for bytes, where `_int_mm` is dozens of times slower than float.
    """
    return 1 < rows <= MAX_PACKED_ROWS if PACK is fbgemm_packed else rows > 0


HAS_AMX = bool(torch.cpu.get_capabilities().get("amx_int8"))
# FBGEMM does not use AMX; without AMX it does less work around the product than oneDNN.
_BY_SPEED = ([onednn_packed] if HAS_AMX else []) + [fbgemm_packed, fbgemm_signs_packed]
PACK = next(filter(is_exact, _BY_SPEED), None)
ADDS_AND_MULTIPLIES_ALIKE = _adds_and_multiplies_alike()
