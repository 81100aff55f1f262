"""AOTInductor: one package of compiled code, which PyTorch runs on processors like this one.

A C++ compiler is needed to export, not to run; it works in a process of its own, in the background. The package
contains native code: open only files that you trust.
"""

from __future__ import annotations

import shutil
from collections.abc import Generator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from pydantic import Field

import toolkit
from toolkit import tracing
from toolkit_aoti.compiler import Compiler

FILE = "model.pt2"
PROGRAM = "program.pt2"
shared_compiler = Compiler()


class Params(toolkit.Params):
    int8_products: Literal["auto", "integers", "float"] = Field(
        default="auto",
        description="arithmetic of layers that round their inputs to int8: integers (x86 processors need VNNI: without "
        "it sums overflow, and the file does not match the model), float (the same integers in float32), or auto, what "
        "suits this machine",
    )


@toolkit.hookimpl
def export(model: Any, params: Params, example: Any, free_sizes: Any, folder: Path) -> Generator[None, None, None]:
    _require_compiler()
    in_integers = None if params.int8_products == "auto" else params.int8_products == "integers"
    with shared_compiler, TemporaryDirectory(dir=folder) as place:
        program = tracing.decompose(tracing.trace(model, example, free_sizes), in_integers)
        program.example_inputs = tracing.arguments(example)
        file = Path(place) / PROGRAM
        with tracing.quiet():
            torch.export.save(program, file)
        shared_compiler.begin(file, folder / FILE)
        yield
        problem = shared_compiler.problem(file, folder / FILE)
    if problem is not None:
        raise toolkit.TechniqueError(f"the compiler failed: {problem}")


def _require_compiler() -> None:
    from torch._inductor import cpp_builder, exc

    try:
        compiler = cpp_builder.get_cpp_compiler()
    except exc.InvalidCxxCompiler:
        compiler = ""
    if not shutil.which(compiler):
        raise toolkit.TechniqueError("needs a C++ compiler, found none; install g++, or name one in the variable CXX")


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
