"""AOTInductor: one package of compiled code, which PyTorch runs on processors like this one.

A C++ compiler is needed to export, not to run. The package contains native code: open only files that you trust.
"""

from __future__ import annotations

import shutil
from typing import Any, Literal

import torch
from pydantic import Field

import toolkit
from toolkit import tracing

FILE = "model.pt2"
SETTINGS = {"aot_inductor.enable_line_tables": False}  # for profilers: they double the size of a LeNet-5's package


class Params(toolkit.Params):
    int8_products: Literal["auto", "integers", "float"] = Field(
        default="auto",
        description="arithmetic of layers that round their inputs to int8: integers (x86 processors need VNNI: without "
        "it sums overflow, and the file does not match the model), float (the same integers in float32), or auto, what "
        "suits this machine",
    )


@toolkit.hookimpl
def export(model: Any, params: Params, example: Any, free_sizes: Any, folder: Any) -> None:
    from torch._inductor import cpp_builder, exc

    try:
        compiler = cpp_builder.get_cpp_compiler()
    except exc.InvalidCxxCompiler:
        compiler = ""
    if not shutil.which(compiler):
        raise toolkit.TechniqueError("needs a C++ compiler, found none; install g++, or name one in the variable CXX")
    in_integers = None if params.int8_products == "auto" else params.int8_products == "integers"
    program = tracing.decompose(tracing.trace(model, example, free_sizes), in_integers)
    program.example_inputs = tracing.arguments(example)
    with tracing.quiet():
        torch._inductor.aoti_compile_and_package(program, package_path=str(folder / FILE), inductor_configs=SETTINGS)


@toolkit.hookimpl
def open(folder, params, threads):
    # Runs in a process that has neither the toolkit nor this module.
    import torch
    from torch.utils import _pytree

    torch.set_num_threads(threads)
    network = torch._inductor.aoti_load_package(f"{folder}/model.pt2")

    @torch.inference_mode()
    def run(*inputs, **named):
        inputs, named = _pytree.tree_map(torch.as_tensor, (inputs, named))
        return _pytree.tree_map(lambda output: output.numpy(), network(*inputs, **named))

    return run
