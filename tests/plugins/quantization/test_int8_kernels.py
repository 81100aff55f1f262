"""Packed int8 kernels: whichever multiplies, the bits are those of `_int_mm`; what is packed is kept out of the way."""

import copy
import math
import os
import subprocess
import sys

import pytest
import torch
from toolkit_quantization import kernels
from toolkit_quantization.int8 import MAX_PACKED_INPUTS, Int8Linear, int8_matmul, quantize_per_channel
from torch import Tensor, nn

from toolkit import masks
from toolkit import model_files as artifact
from toolkit.rounding import quantize_rows

KERNELS = {
    "fbgemm": kernels.fbgemm_packed,
    "fbgemm by signs": kernels.fbgemm_signs_packed,
    "onednn": kernels.onednn_packed,
    "none": None,
}
here = pytest.mark.skipif(kernels.PACK is None, reason="no packed kernel is exact on this processor")


@pytest.fixture(params=[True, False], ids=["addcmul", "mul and add"])
def _epilogue(request, monkeypatch):
    if request.param and not kernels.ADDS_AND_MULTIPLIES_ALIKE:
        pytest.skip("addcmul does not round alike everywhere on this processor")
    monkeypatch.setattr(kernels, "ADDS_AND_MULTIPLIES_ALIKE", request.param)


@pytest.fixture(params=KERNELS)
def kernel(request, monkeypatch):
    """Each kernel that is exact here, for batches of any size."""
    pack = KERNELS[request.param]
    if pack and not kernels.is_exact(pack):
        pytest.skip(f"{request.param} is not exact on this processor")
    monkeypatch.setattr(kernels, "PACK", pack)
    monkeypatch.setattr(kernels, "packing_pays", lambda rows: rows > 0)
    return request.param


def layer_of(inputs: int, outputs: int, bias: bool = True) -> Int8Linear:
    weight = torch.randn(outputs, inputs) * torch.logspace(-2, 2, outputs).unsqueeze(1)
    return Int8Linear(*quantize_per_channel(weight), torch.randn(outputs) if bias else None)


def plain(layer: Int8Linear, rows: Tensor) -> Tensor:
    """What the layer has to give, to the last bit, without packed kernels, each row on its own."""
    values, scales = quantize_rows(rows)
    products = int8_matmul(values, layer.weight).float() * layer.scale
    outputs = [kernels.scaled(one.clone(), scale, layer.bias) for one, scale in zip(products, scales, strict=True)]
    return torch.stack(outputs) if outputs else products


@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (7, 3), (63, 17), (784, 33), (1025, 64), (1200, 10)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.usefixtures("_epilogue")
def test_every_kernel_gives_the_same_bits(kernel, inputs, outputs, bias):
    layer = layer_of(inputs, outputs, bias)
    for count in (0, 1, 2, 31, 127, 128, 300):
        rows = torch.randn(count, inputs) * torch.logspace(-6, 6, count).unsqueeze(1)
        rows[1:2] = 0
        assert torch.equal(layer(rows), plain(layer, rows)), count
        assert torch.equal(layer(rows.relu()), plain(layer, rows.relu())), count


@pytest.mark.parametrize("inputs", [kernels.EXACT_INPUTS, kernels.EXACT_INPUTS + 1, 4 * kernels.EXACT_INPUTS + 3])
@pytest.mark.parametrize("sign", [1, -1, 0])
def test_products_that_float32_does_not_hold_are_rounded_once(kernel, inputs, sign):
    weight = torch.randint(120, 128, (9, inputs)) * (torch.randint(0, 2, (9, inputs)) * 2 - 1 if sign == 0 else sign)
    layer = Int8Linear(weight.to(torch.int8), torch.rand(9))
    rows = torch.cat([torch.randint(-127, 128, (4, inputs)), torch.randint(100, 128, (4, inputs))]).float()
    rows[:, 0] = 127  # so that each row's scale is 1
    rows[1::4, 1:] = weight[:2, 1:].float()  # as large as a sum gets, with terms of both signs
    expected = (rows.double() @ weight.double().t()).float() * layer.scale
    for some in (slice(0, 8), slice(0, 1), slice(6, 8), slice(7, 8)):  # the last two without a negative value
        assert torch.equal(layer(rows[some]), expected[some])


@pytest.mark.smoke
def test_every_kernel_rounds_halves_to_even(kernel):
    layer = Int8Linear(torch.eye(64, dtype=torch.int8), torch.ones(64))
    rows = torch.arange(-127, 127, 0.5)[:448].reshape(7, 64).repeat(2, 1)
    rows[:, 0] = 127
    rows[7:] = rows[7:].nextafter(torch.zeros(()))
    rows[7:, 0] = 127
    assert torch.equal(layer(rows), rows.round())


def test_sums_may_be_as_large_as_they_get(kernel):
    for inputs in (MAX_PACKED_INPUTS, MAX_PACKED_INPUTS + 1):
        layer = Int8Linear(torch.full((2, inputs), 127, dtype=torch.int8), torch.ones(2))
        layer.weight[1] = -127
        rows = torch.ones(2, inputs)
        rows[1] = -1
        expected = torch.tensor(float(127 * 127 * inputs)) * (1 / torch.tensor(127.0))
        torch.testing.assert_close(layer(rows), expected * torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))


def test_a_row_that_is_not_finite_gives_nan_and_spoils_no_other(kernel):
    layer = layer_of(64, 48)
    rows = torch.randn(5, 64)
    clean = layer(rows)
    rows[1, 3], rows[2, 0], rows[3, 63] = math.nan, math.inf, -math.inf
    outputs = layer(rows)
    assert outputs[1:4].isnan().all()
    assert torch.equal(outputs[[0, 4]], clean[[0, 4]])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes_and_shapes(kernel, dtype):
    layer, rows = layer_of(24, 12), torch.randn(2, 3, 24).to(dtype)
    outputs = layer(rows)
    assert outputs.dtype == dtype
    assert torch.equal(outputs, plain(layer, rows.reshape(6, 24)).reshape(2, 3, 12).to(dtype))
    assert torch.equal(layer.half()(rows[:, 0]), plain(layer, rows[:, 0]).to(dtype))  # with a scale in half precision


def test_new_and_changed_buffers_are_noticed(kernel):
    layer, other, rows = layer_of(64, 48), layer_of(64, 48), torch.randn(5, 64)
    layer(rows)
    layer.load_state_dict(other.state_dict(), assign=True)
    assert torch.equal(layer(rows), other(rows))
    layer.weight.neg_()
    layer.bias = None
    assert torch.equal(layer(rows), plain(layer, rows))
    layer.scale.mul_(2)
    assert torch.equal(layer(rows), plain(layer, rows))
    with torch.inference_mode():
        layer.load_state_dict({name: tensor.clone() for name, tensor in layer_of(64, 48, False).state_dict().items()})
        assert torch.equal(layer(rows), plain(layer, rows))


@here
def test_what_is_packed_is_in_no_copy_and_no_file():
    layer = layer_of(64, 48)
    content, state = artifact.pack(layer), set(layer.state_dict())
    expected = layer(torch.ones(5, 64))
    assert layer._kept is not None
    assert artifact.pack(layer) == content
    assert set(layer.state_dict()) == state
    for twin in (copy.deepcopy(layer), masks.clone(layer)):
        assert twin._kept is None
        assert torch.equal(twin(torch.ones(5, 64)), expected)


@here
def test_the_engine_of_others_is_left_as_it_is():
    before = torch.backends.quantized.engine
    layer_of(64, 48)(torch.ones(5, 64))
    assert torch.backends.quantized.engine == before


@here
def test_an_exported_layer_needs_nothing_packed():
    layer, rows = layer_of(64, 48), torch.randn(5, 64)
    before = layer(rows)
    exported = torch.export.export(layer, (rows,)).module()
    assert torch.equal(exported(rows), before)


def test_a_kernel_that_saturates_or_is_missing_is_not_used(monkeypatch):
    def saturating(weight: Tensor, scale: Tensor) -> kernels.Packed:
        return lambda rows: (rows.round() @ weight.float().t()).clamp(max=2**15) * scale

    def missing(weight: Tensor, scale: Tensor) -> kernels.Packed:
        raise RuntimeError("Didn't find engine")

    def sound(weight: Tensor, scale: Tensor) -> kernels.Packed:
        return lambda rows: (rows.round() @ weight.float().t()) * scale

    def truncating(weight: Tensor, scale: Tensor) -> kernels.Packed:
        return lambda rows: ((rows + 0.5).floor() @ weight.float().t()) * scale

    assert [kernels.is_exact(pack) for pack in (saturating, missing, truncating, sound)] == [False, False, False, True]


@pytest.mark.skipif("fbgemm" not in torch.backends.quantized.supported_engines, reason="FBGEMM is for x86")
def test_products_by_signs_are_exact_on_every_processor_that_has_fbgemm():
    assert kernels.is_exact(kernels.fbgemm_signs_packed)
    assert kernels.PACK is not None


def test_packing_pays_where_the_product_that_is_not_packed_is_slower(monkeypatch):
    def paying() -> list[int]:
        return [rows for rows in (0, 1, 2, 127, 128) if kernels.packing_pays(rows)]

    for pack, rows in (
        (kernels.fbgemm_packed, [2, 127]),
        (kernels.fbgemm_signs_packed, [1, 2, 127, 128]),
        (kernels.onednn_packed, [1, 2, 127, 128]),
    ):
        monkeypatch.setattr(kernels, "PACK", pack)
        assert paying() == rows


@pytest.mark.slow
def test_a_processor_without_vnni_uses_no_kernel_that_saturates():
    """oneDNN told to use AVX2 adds pairs of products in 16 bits, as on every x86 processor without VNNI."""
    code = (
        "import torch; from toolkit_quantization import kernels\n"
        "from toolkit_quantization.int8 import Int8Linear, int8_matmul\n"
        "weight = torch.full((4, 64), 127, dtype=torch.int8)\n"
        "rows = torch.full((3, 64), 127.0)\n"
        "print(kernels.is_exact(kernels.onednn_packed), Int8Linear(weight, torch.ones(4))(rows))\n"
        "print(kernels.is_exact(kernels.fbgemm_packed), kernels.PACK and kernels.PACK.__name__)\n"
        "rows = torch.full((3, 64), 127, dtype=torch.int8)\n"
        "print(int8_matmul(rows, rows).unique().tolist())"
    )
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "FBGEMM_ENABLE_INSTRUCTIONS": "AVX2"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("False")
    assert done.stdout.count(f"{64 * 127 * 127}.") == 12
    if "fbgemm" in torch.backends.quantized.supported_engines:
        assert done.stdout.splitlines()[-2] in ("False fbgemm_signs_packed", "True fbgemm_packed")
    assert done.stdout.splitlines()[-1] == f"[{64 * 127 * 127}]"


def test_gradients_end_at_the_layer(kernel):
    inputs = torch.randn(4, 24, requires_grad=True)
    model = nn.Sequential(layer_of(24, 12), nn.Linear(12, 3))
    model(inputs).sum().backward()
    assert inputs.grad is None
    assert model[1].weight.grad is not None
