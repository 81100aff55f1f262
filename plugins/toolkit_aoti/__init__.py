"""AOTInductor: one package of compiled code, which PyTorch runs on processors like this one.

A C++ compiler is needed to export, not to run; it works in a process of its own, in the background. The package
contains native code: open only files that you trust.
"""

from __future__ import annotations

import shutil
from collections.abc import Generator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

import toolkit
from toolkit import tracing
from toolkit_aoti.compiler import Compiler

FILE = "model.pt2"
PROGRAM = "program.pt2"
shared_compiler = Compiler()


class Params(tracing.ProgramParams):
    pass


@toolkit.hookimpl
def export(model: Any, params: Params, example: Any, free_sizes: Any, folder: Path) -> Generator[None, None, None]:
    _require_compiler()
    with shared_compiler, TemporaryDirectory(dir=folder) as place:
        program = tracing.decompose(tracing.trace(model, example, free_sizes), params.in_integers)
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
