"""AOTInductor: one package of compiled code, which PyTorch runs on processors like this one.

A C++ compiler is needed to export, not to run; it works in a process of its own, in the background. The package
contains native code: open only files that you trust.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from pydantic import Field

import toolkit
from toolkit import tracing

FILE = "model.pt2"
PROGRAM, MESSAGES = "program.pt2", "messages.txt"
SETTINGS = {"aot_inductor.enable_line_tables": False}  # for profilers: they double the size of a LeNet-5's package
COMPILE = """
import json, sys
import torch
program, package, threads, settings = sys.argv[1:]
torch.set_num_threads(int(threads))
with torch.no_grad():
    program = torch.export.load(program)
    torch._inductor.aoti_compile_and_package(program, package_path=package, inductor_configs=json.loads(settings))
"""


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
    program = tracing.decompose(tracing.trace(model, example, free_sizes), in_integers)
    program.example_inputs = tracing.arguments(example)
    with TemporaryDirectory(dir=folder) as place:
        with tracing.quiet():
            torch.export.save(program, Path(place) / PROGRAM)
        with _compiling(Path(place), folder / FILE) as compiler:
            yield
            if compiler.wait() != 0:
                raise toolkit.TechniqueError(f"the compiler failed: {_reason(Path(place) / MESSAGES, compiler)}")


def _require_compiler() -> None:
    from torch._inductor import cpp_builder, exc

    try:
        compiler = cpp_builder.get_cpp_compiler()
    except exc.InvalidCxxCompiler:
        compiler = ""
    if not shutil.which(compiler):
        raise toolkit.TechniqueError("needs a C++ compiler, found none; install g++, or name one in the variable CXX")


@contextmanager
def _compiling(place: Path, package: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Compile in another process, which ends with the context, together with the compilers that it has started."""
    arguments = [str(place / PROGRAM), str(package), str(torch.get_num_threads()), json.dumps(SETTINGS)]
    with (place / MESSAGES).open("wb") as messages:
        process = subprocess.Popen(
            [sys.executable, "-I", "-c", COMPILE, *arguments],
            env={**os.environ, "TORCHINDUCTOR_COMPILE_THREADS": "1"},  # more would be processes that import torch
            stdin=subprocess.DEVNULL,
            stdout=messages,
            stderr=messages,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _reason(messages: Path, process: subprocess.Popen[bytes]) -> str:
    """Return the last line that tells of an error, else the last one."""
    lines = [line.strip() for line in messages.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if "error: " in line]
    return (errors or lines or [f"its process ended with status {process.returncode}"])[-1]


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
