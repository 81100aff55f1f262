"""A model as a program of `torch.export`, for runtimes that read one.

Layers of integers are operators of `toolkit.operators` in the program: translate these, or `decompose` them into
operators of PyTorch.
"""

from __future__ import annotations

import copy
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from inspect import Parameter, signature
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils._pytree import tree_map_only

from toolkit import operators
from toolkit.errors import TechniqueError, ToolkitError
from toolkit.params import Params
from toolkit.untraceable import causes, check_free_sizes, problem, require_plain_lstms

__all__ = [
    "ProgramParams",
    "arguments",
    "causes",
    "checked_outputs",
    "decompose",
    "dynamic_batch",
    "problem",
    "quiet",
    "trace",
    "without_shared_modules",
]

INT8_MAX = 127
TRACEBACK_KEYS = ("from_node", "source_fn_stack", "stack_trace")  # where operations come from: paths of this machine


class ProgramParams(Params):
    """Settings of runtimes in which PyTorch runs the program of a model."""

    int8_products: Literal["auto", "integers", "float"] = Field(
        default="auto",
        description="arithmetic of layers that round their inputs to int8: integers (x86 processors need VNNI: without "
        "it sums overflow, and the file does not match the model), float (the same integers in float32), or auto, what "
        "suits this machine",
    )

    @property
    def in_integers(self) -> bool | None:
        """The arithmetic as `decompose` takes it."""
        return None if self.int8_products == "auto" else self.int8_products == "integers"


def trace(model: nn.Module, example: Any, free_sizes: Any = None) -> ExportedProgram:
    """Return the program that computes the model for any number of samples.

    Args:
        model: in eval mode, on the CPU; not changed.
        example: inputs of two samples or more: a tensor, a tuple of them, or a dictionary by argument.
        free_sizes: as the hook `export` receives it; the number of samples alone by default.

    Raises:
        TechniqueError: the model cannot be traced; names the layer or the line where that is known.
    """
    args, kwargs = arguments(example)
    outputs = checked_outputs(model, args, kwargs)
    model = without_shared_modules(model)
    network = model if type(outputs) is dict or not isinstance(outputs, Mapping) else _PlainOutputs(model)
    shapes = dynamic_batch(kwargs or args, network, free_sizes)
    with operators.exporting(), torch.no_grad(), quiet():
        try:
            program = torch.export.export(network, args, kwargs, dynamic_shapes=shapes, strict=False)
        except ToolkitError:
            raise
        except Exception as error:
            raise TechniqueError(problem(error)) from error
    if free_sizes is not None:
        check_free_sizes(program, free_sizes)
    require_plain_lstms(program)
    return _anonymous(program)


def decompose(program: ExportedProgram, in_integers: bool | None = None) -> ExportedProgram:
    """Return the program with operators of PyTorch instead of the toolkit's; weights stay as they are stored.

    Args:
        program: of `trace`.
        in_integers: multiply bytes by `torch._int_mm`; otherwise the same integers in float32, whose sums are exact up
            to 1040 inputs and rounded beyond. None chooses bytes if this processor has instructions for them.
    """
    in_integers = _has_byte_products() if in_integers is None else in_integers

    def int8_linear(inputs: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        row_scale = inputs.abs().amax(-1, keepdim=True).clamp(min=INT8_MAX * operators.SMALLEST_SCALE) / INT8_MAX
        rows = (inputs / row_scale).round().flatten(0, -2)
        if in_integers and weight.shape[1] > 1:  # the strides of a single input are none that the product takes
            products = torch._int_mm(rows.to(torch.int8), weight.t()).float()
        else:
            products = rows.mm(weight.float().t())
        outputs = products.reshape(*inputs.shape[:-1], weight.shape[0]) * scale * row_scale
        return outputs if bias is None else outputs + bias

    decoding = (operators.dequantize, operators.dequantize_int4, operators.dequantize_int2, operators.widen)
    plain: dict[Any, Any] = {
        operator._opoverload: operator._init_fn for operator in (*decoding, operators.fake_quantize)
    }
    with quiet(), torch.no_grad():
        return _anonymous(program.run_decompositions({**plain, operators.int8_linear._opoverload: int8_linear}))


def _has_byte_products() -> bool:
    """Return whether `torch._int_mm` is exact on this processor, and faster than float32."""
    fast = ("amx_int8", "avx512_vnni", "avx_vnni", "i8mm")
    extreme = torch.full((64, 64), INT8_MAX, dtype=torch.int8, device="cpu")
    is_exact = bool((torch._int_mm(extreme, extreme) == INT8_MAX**2 * 64).all())
    return is_exact and any(torch.cpu.get_capabilities().get(name) for name in fast)


def without_shared_modules(model: nn.Module) -> nn.Module:
    """Return the model with a module of its own in each place, on the same tensors: the tracer mixes up shared ones."""
    modules = [module for _, module in model.named_modules(remove_duplicate=False)]
    if len(modules) == len({id(module) for module in modules}):
        return model
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    twin = copy.deepcopy(model, dict(tensors))
    seen, parents = {id(twin)}, [twin]
    for parent in parents:  # which grows: a copy may hold a module in two places itself
        for name, child in list(parent._modules.items()):
            if child is None:
                continue
            child = copy.deepcopy(child, dict(tensors)) if id(child) in seen else child
            parent._modules[name] = child
            seen.add(id(child))
            parents.append(child)
    return twin


class _PlainOutputs(nn.Module):
    """A network that returns a plain dictionary, whatever class of dictionary its own is."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return dict(self.network(*args, **kwargs))


def _anonymous(program: ExportedProgram) -> ExportedProgram:
    """Drop what a saved program would tell: the samples it was traced with, and paths of this machine."""
    program._example_inputs = None
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            for key in TRACEBACK_KEYS:
                node.meta.pop(key, None)
    return program


def arguments(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return inputs as the positional and the named arguments of a call."""
    if isinstance(example, Mapping):
        return (), dict(example)
    return (tuple(example) if isinstance(example, (tuple, list)) else (example,)), {}


def dynamic_batch(inputs: Any, network: nn.Module | None = None, free_sizes: Any = None) -> Any:
    """Return the `dynamic_shapes` of inputs whose first dimension is the number of samples.

    Args:
        inputs: a tuple of arguments, or a dictionary of named ones.
        network: what takes them; needed where its `forward` takes any number of arguments.
        free_sizes: as the hook `export` receives it; the number of samples alone by default.
    """
    batch = torch.export.Dim("batch", min=1)
    shapes = tree_map_only(Tensor, lambda _: {0: batch}, inputs)
    if free_sizes is not None:
        args, kwargs = arguments(free_sizes)
        shapes = tree_map_only(frozenset, lambda free: _sizes(batch, free), kwargs or args)
    if network is None:
        return shapes
    wanted = Parameter.VAR_KEYWORD if isinstance(inputs, Mapping) else Parameter.VAR_POSITIONAL
    parameters = signature(network.forward).parameters
    first = next(iter(parameters.values()), None)
    takes_any = first is not None and first.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    name = next((name for name, parameter in parameters.items() if parameter.kind is wanted), None)
    return {name: shapes} if takes_any and name is not None else shapes


def _sizes(batch: Any, free: frozenset[int]) -> dict[int, Any]:
    # AUTO, because two inputs may have the same length, which a named size for each would not allow.
    return {dimension: torch.export.Dim.AUTO if dimension else batch for dimension in sorted(free)}


@torch.no_grad()
def checked_outputs(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run the model as it will be traced, and return its outputs.

    Raises:
        TechniqueError: a layer cannot be exported; names the layer.
    """
    called: list[nn.Module] = []
    handle = nn.modules.module.register_module_forward_pre_hook(lambda module, _: called.append(module))
    try:
        with operators.exporting():
            return model(*args, **kwargs)
    except TechniqueError as error:
        paths = {id(module): path for path, module in model.named_modules()}
        raise TechniqueError(f"layer '{paths.get(id(called[-1]), '')}' {error}") from error
    finally:
        handle.remove()


@contextmanager
def quiet() -> Iterator[None]:
    """Hide what exporters print and log, whose errors are raised, too, and undo what they do to the root logger."""
    root = logging.root
    disabled, level, handlers, filters = root.manager.disable, root.level, [*root.handlers], [*root.filters]
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        # An exporter that fails leaves a level at which warnings of others would be lost, and a handler.
        root.setLevel(level)
        root.handlers[:], root.filters[:] = handlers, filters
        logging.disable(disabled)
