"""Linear layers that round their inputs to int8 and multiply them with int8 weights."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.compiler import is_compiling

from toolkit import TechniqueError, operators, stored_as
from toolkit.rounding import quantize_rows
from toolkit_quantization import kernels
from toolkit_quantization.kernels import INT8_MAX

MAX_INPUTS = (2**31 - 1) // INT8_MAX**2  # the sum of more products might overflow int32
MAX_PACKED_INPUTS = MAX_INPUTS // 2  # packed kernels add 128 to the activations
# Without VNNI instructions, oneDNN adds products in pairs, in 16 bits, and saturates silently (pytorch#136746).
# Tested on import, because torch.export cannot trace the test.
_EXTREME = torch.full((16, 64), INT8_MAX, dtype=torch.int8, device="cpu")
INT_MM_IS_EXACT = bool((torch._int_mm(_EXTREME, _EXTREME.t()) == 64 * INT8_MAX**2).all())


def quantize_per_channel(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Round a weight (out, in) to int8 and scale (out,) float32: Jacob et al., 2018, without zero points."""
    values, scale = quantize_rows(weight)
    return values, scale.squeeze(1)


def quantize_like_torch(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Round a weight (out, in) to the int8 and scale (out,) float32 that `quantize_dynamic` chooses."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(weight.float())
    with kernels.no_deprecation_warnings():
        from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic

        model = quantize_dynamic(nn.Sequential(linear), {nn.Linear: per_channel_dynamic_qconfig})
        quantized = model[0].weight()
    return quantized.int_repr(), quantized.q_per_channel_scales().float()


def int8_matmul(rows: Tensor, weight: Tensor) -> Tensor:
    """Return the exact product (N, out) int32 of rows (N, in) and weight (out, in), both int8, on any device."""
    (count, inputs), outputs = rows.shape, weight.shape[0]
    if rows.device.type == "cpu" and INT_MM_IS_EXACT and inputs > 1:  # a single input has unusual strides
        return torch._int_mm(rows, weight.t())
    if rows.device.type == "cuda":  # needs more than 16 rows, and multiples of 8 in the other sizes
        rows, weight = F.pad(rows, (0, -inputs % 8, 0, 17)), F.pad(weight, (0, -inputs % 8, 0, -outputs % 8))
        return torch._int_mm(rows, weight.t())[:count, :outputs]
    # 1024 products add up to less than 2**24, which float32 holds exactly, in any order.
    parts = zip(rows.split(1024, dim=1), weight.split(1024, dim=1), strict=True)
    return torch.stack([(left.float() @ right.float().t()).int() for left, right in parts]).sum(0).int()


def is_transformed() -> bool:
    """Return whether tensors are recorded by `torch.jit.trace`, or stand for many, as under `torch.vmap`."""
    return bool(torch._C._get_tracing_state()) or torch._C._functorch.peek_interpreter_stack() is not None


def not_exportable(engine: str) -> str:
    """Return the end of an error message about a layer whose arithmetic only PyTorch has."""
    return f"uses the arithmetic of engine '{engine}', which no other runtime has; quantize with `engine` 'toolkit'"


@stored_as("quantization.Int8Linear")
class Int8Linear(nn.Module):
    """A linear layer that rounds its inputs to int8 row by row and multiplies integers; no gradient.

    Inputs (…, in) of any float dtype give outputs (…, out) of that dtype. A row has the same result, to the last bit,
    alone and in any batch; a row with NaN or infinity gives NaN.
    """

    replaces = "Linear"
    rounds_activations = True  # an exported file may differ by some last bits of each layer
    weight: Tensor
    scale: Tensor
    bias: Tensor | None
    _kept: kernels.BufferCache | None = None

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor | None = None) -> None:
        """Hold weight (out, in) int8, scale (out,) float32 and bias (out,) float32, as they are."""
        super().__init__()
        self.out_features, self.in_features = weight.shape
        for name, tensor in (("weight", weight), ("scale", scale), ("bias", bias)):
            self.register_buffer(name, tensor)

    def dense_weight(self) -> Tensor:
        """Return the weight (out, in) float32 that the integers stand for."""
        return self.weight * self.scale.float().unsqueeze(1)

    def forward(self, inputs: Tensor) -> Tensor:
        if operators.is_exporting():
            return operators.int8_linear(inputs, self.weight, self.scale, self.bias)
        # A single function, because calls and look-ups cost: a large product evicts Python from the caches.
        as_it_is = inputs.dtype is torch.float32 and inputs.dim() == 2 and not inputs.requires_grad
        rows = inputs if as_it_is else self._rows(inputs)
        buffers = self._buffers
        if type(rows) is not Tensor or not rows.is_cpu or is_compiling() or is_transformed():
            # Traces and other devices support `_int_mm`, but neither packed weights nor `out`.
            values, row_scale = quantize_rows(rows)
            outputs = int8_matmul(values, self.weight).float().mul_(self.scale)
            outputs = kernels.scaled(outputs, row_scale, buffers["bias"])
        else:
            rows, row_scale = kernels.scaled_rows(rows)
            if (
                kernels.PACK is not None
                and self.in_features <= MAX_PACKED_INPUTS
                and kernels.packing_pays(rows.shape[0])
            ):
                kept = self._kept
                outputs = (kept if kept is not None and kept.is_of(buffers) else self._keep()).made(rows)
            else:
                values = rows.round_().to(torch.int8, memory_format=torch.contiguous_format)
                outputs = int8_matmul(values, self.weight).float().mul_(self.scale)
            outputs = kernels.scaled(outputs, row_scale, buffers["bias"], out=outputs)
        return outputs if as_it_is else outputs.reshape(*inputs.shape[:-1], self.out_features).to(inputs.dtype)

    def _rows(self, inputs: Tensor) -> Tensor:
        if not inputs.is_floating_point():
            raise TypeError(f"an int8 layer rounds its inputs itself, so they must be float, not {inputs.dtype}")
        rows = inputs.detach() if inputs.dim() == 2 else inputs.detach().reshape(-1, self.in_features)
        return rows.float()

    def _keep(self) -> kernels.BufferCache:
        self._kept = kernels.BufferCache(self._buffers, self._pack())
        return self._kept

    def _pack(self) -> Any:
        assert kernels.PACK is not None
        return kernels.PACK(self.weight, self.scale)

    def __getstate__(self) -> dict[str, Any]:
        # A packed weight cannot be copied or saved.
        return {name: value for name, value in vars(self).items() if name != "_kept"}

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"


@stored_as("quantization.TorchInt8Linear")
class TorchInt8Linear(Int8Linear):
    """What `quantize_dynamic` computes, to the last bit, from plain buffers; rows share one 7-bit scale."""

    def forward(self, inputs: Tensor) -> Tensor:
        if operators.is_exporting():
            raise TechniqueError(not_exportable("torch"))
        kept = self._kept if self._kept is not None and self._kept.is_of(self._buffers) else self._keep()
        outputs = torch.ops.quantized.linear_dynamic(inputs.float(), kept.made, reduce_range=True)
        return outputs.to(inputs.dtype)

    def _pack(self) -> Any:
        return kernels.linear_prepack(self.weight, self.scale, self.bias)
