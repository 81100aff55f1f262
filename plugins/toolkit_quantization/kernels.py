"""The processor's own int8 kernels: faster than `_int_mm`, to the same bits, on weights packed for them.

What is packed is an opaque object that can be neither copied, saved nor traced: it is made when a layer first
runs, and kept out of the layer's state.
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

LARGEST = 127
SMALLEST = LARGEST * torch.finfo(torch.float32).tiny  # a subnormal scale would be too coarse to keep ±127
ZERO = 128  # where unsigned bytes have the zero of signed ones
MOST_ROWS = 127  # of more, and of a single one, `_int_mm` is as fast where the processor adds bytes in 32 bits
MOST_HELD = 2**24  # up to here float32 holds every integer
PIECE = MOST_HELD // LARGEST**2  # inputs of which it holds the product, whatever they are

# Takes rows (N, in) float32 within ±127 and rounds them; gives their product with the weight, (N, out) float32.
Packed: TypeAlias = Callable[[Tensor], Tensor]

# As tensors: with a number of Python, an operation on as few values takes twice as long.
_SMALLEST, _LARGEST, _INFINITY = (torch.tensor(value, device="cpu") for value in (SMALLEST, float(LARGEST), math.inf))
_engine = threading.Lock()


def scaled_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """What `quantize_rows` gives for rows (N, K) float32 on the CPU, to the same bits, but not rounded yet.

    The scale of a row with infinity is NaN, for kernels turn what cannot be rounded into any number.
    """
    values = rows.abs()
    scale = values.amax(1, True).clamp_min_(_SMALLEST).div_(_LARGEST).fmod_(_INFINITY)
    return torch.div(rows, scale, out=values), scale


def scaled(outputs: Tensor, row_scale: Tensor, bias: Tensor | None, out: Tensor | None = None) -> Tensor:
    """Outputs (N, out), free to be overwritten, times a scale for each row (N, 1), plus a bias (out,).

    What becomes of a row depends on nothing but that row, to the last bit. `out` may be `outputs` itself.
    """
    if bias is None:
        return outputs.mul_(row_scale)
    if ADDS_AND_MULTIPLIES_ALIKE and bias.dtype == torch.float32:
        return torch.addcmul(bias, outputs, row_scale, out=out)
    return outputs.mul_(row_scale).add_(bias)


def _adds_and_multiplies_alike() -> bool:
    """Whether `addcmul` rounds once, or twice, wherever in a tensor a value lies: some processors' does not."""
    bias, outputs, scale = torch.linspace(1, 9, 3 * 333, device="cpu").frac().reshape(3, 1, 333)
    rows, scales = torch.cat([outputs, outputs.flip(1), outputs]), scale[:, :3].t()
    whole = torch.addcmul(bias, rows, scales)
    parts = [
        torch.addcmul(bias[:, i], row[i], factor) for row, factor in zip(rows, scales, strict=True) for i in range(333)
    ]
    return torch.equal(whole.flatten(), torch.cat(parts))


def fbgemm_packed(weight: Tensor, scale: Tensor) -> Packed:
    """The weight (out, in) int8 with scale (out,) for the kernels of FBGEMM, which round as `torch.round`."""
    return _fbgemm(weight, scale, ZERO)


def fbgemm_signs_packed(weight: Tensor, scale: Tensor) -> Packed:
    """As `fbgemm_packed` and to the same bits, but exact where the processor adds pairs of products in 16 bits.

    A pair of 8 by 8 bits overflows them, one of 7 by 8 does not (2 * 127 * 127 < 2**15). So the positive and the
    negative parts of the rows, both in 7 bits without a sign, are multiplied as rows of their own, and subtracted;
    rows without a negative value, as they come out of ReLU, have but one part.
    """
    sums = weight.int()
    largest = torch.maximum(sums.clamp(min=0).sum(1), -sums.clamp(max=0).sum(1)).max() * LARGEST
    width = weight.shape[1] if largest <= MOST_HELD else PIECE
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
    """The sum of integers in float32, rounded once: in float32 each addition might round."""
    return torch.stack([term.int() for term in terms]).sum(0, dtype=torch.int32).float()


def _parts(rows: Tensor) -> Tensor:
    """The positive parts of rows (N, in), and below them, as positive numbers, the negative ones: (2 N, in)."""
    parts = rows.new_empty(2 * len(rows), rows.shape[1])
    positive, negative = parts.chunk(2)
    torch.clamp_min(rows, 0, out=positive)
    torch.sub(positive, rows, out=negative)
    return parts


def _fbgemm(weight: Tensor, scale: Tensor, zero: int) -> Packed:
    packed = linear_prepack(weight, scale, None, engine="fbgemm")
    multiply: Any = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32.default
    multiply = getattr(multiply, "_op", multiply)  # without a search of the arguments, at each call, for fake objects
    return lambda rows: multiply(rows, 1.0, zero, packed)


def onednn_packed(weight: Tensor, scale: Tensor) -> Packed:
    """The weight (out, in) int8 with scale (out,) for the kernels of oneDNN, which round nothing."""
    packed, zeros = torch.ops.onednn.qlinear_prepack(weight, None), torch.zeros(len(weight), dtype=torch.int32)
    scale = scale.float()

    def multiply(rows: Tensor) -> Tensor:
        # Signed bytes would do, and take a thousand times as long where there is no AMX.
        values = (
            rows.round_().to(torch.int8, memory_format=torch.contiguous_format).view(torch.uint8).bitwise_xor_(ZERO)
        )
        return torch.ops.onednn.qlinear_pointwise(
            values, 1.0, ZERO, packed, scale, zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )

    return multiply


def linear_prepack(weight: Tensor, scale: Tensor, bias: Tensor | None, engine: str | None = None) -> Any:
    """Parameters of `torch.ops.quantized.linear…`, packed by an engine, by default the one that is set."""
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
    """Keep PyTorch from announcing the end of its quantized dtypes: they are used while they last."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.ao.quantization is deprecated", DeprecationWarning)
        warnings.filterwarnings("ignore", "torch.quantize_per_tensor, torch.quantize_per_ch", UserWarning)
        yield


def is_exact(pack: Callable[[Tensor, Tensor], Packed]) -> bool:
    """Whether a kernel is there, rounds as `torch.round`, and does not saturate, as most do without VNNI, silently."""
    extreme = torch.full((64, 64), LARGEST, dtype=torch.int8, device="cpu")
    halves = torch.arange(-126.5, 127, 0.5, device="cpu").nextafter(torch.zeros((), device="cpu")).split(64)
    rows = torch.stack([*halves[:7], torch.full((64,), float(LARGEST), device="cpu")])
    try:
        product = pack(extreme, torch.ones(64, device="cpu"))(rows.clone())
    except (RuntimeError, AttributeError):
        return False
    return torch.equal(product, (rows.round().sum(1, keepdim=True) * LARGEST).expand(-1, 64))


class Kept:
    """What was made of buffers when it was first needed, good until one of them is replaced or written to.

    It is an object of its own because whoever copies or saves a module looks into lists and tuples, and may not
    find tensors there. It holds the buffers: an id alone might be that of another tensor by now.
    """

    __slots__ = ("_of", "made")

    def __init__(self, buffers: Mapping[str, Tensor | None], made: Any) -> None:
        self.made = made
        self._of: list[Any] = [
            (name, buffer, None if buffer is None or buffer.is_inference() else buffer._version)
            for name, buffer in buffers.items()
        ]

    def is_of(self, buffers: Mapping[str, Any]) -> bool:
        """Whether it was made of these, as they are now."""
        for name, buffer, version in self._of:
            if buffers[name] is not buffer or (version is not None and buffer._version != version):
                return False
        return True


def packing_pays(rows: int) -> bool:
    """Whether the product of so many rows with a weight is faster when that is packed.

    Without instructions for bytes, `_int_mm` is dozens of times slower than float: there it always is.
    """
    return 1 < rows <= MOST_ROWS if PACK is fbgemm_packed else rows > 0


HAS_AMX = bool(torch.cpu.get_capabilities().get("amx_int8"))
# FBGEMM does not know AMX; elsewhere it has less to do around the product than oneDNN.
_FASTEST_FIRST = ([onednn_packed] if HAS_AMX else []) + [fbgemm_packed, fbgemm_signs_packed]
PACK = next(filter(is_exact, _FASTEST_FIRST), None)
ADDS_AND_MULTIPLIES_ALIKE = _adds_and_multiplies_alike()
