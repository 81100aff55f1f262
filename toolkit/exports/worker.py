"""The process in which exported files are opened: a script that runs alone, without the toolkit.

Run as `python -I worker.py`. A message on standard input is a JSON header, followed by arrays as raw bytes; answers
have the same form. The process imports numpy and what the runtime's code imports; the toolkit, its plugins and
the recipe's sources cannot be imported in it.
"""

import hashlib
import importlib.abc
import json
import os
import signal
import struct
import sys
import time
import traceback
import types
from typing import Any


class Blocked(importlib.abc.MetaPathFinder):
    """Refuses to import packages by name, as if they were not installed."""

    def __init__(self, names: set[str]) -> None:
        self.names = names

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:  # noqa: ARG002  # importlib's
        if fullname.partition(".")[0] in self.names:
            raise ModuleNotFoundError(
                f"No module named '{fullname}' (not available to an exported file)", name=fullname
            )
        return


def receive(stream: Any) -> tuple[Any, list[Any]]:
    size = stream.read(8)
    if len(size) < 8:
        return None, []
    header = json.loads(stream.read(struct.unpack(">Q", size)[0]))
    import numpy

    arrays = []
    for dtype, shape in header.pop("arrays", []):
        count = int(numpy.prod(shape, dtype=numpy.int64)) * numpy.dtype(dtype).itemsize
        arrays.append(numpy.frombuffer(bytearray(stream.read(count)), dtype).reshape(shape))
    return header, arrays


def send(stream: Any, header: dict[str, Any], arrays: Any = ()) -> None:
    import numpy

    arrays = [numpy.ascontiguousarray(array) for array in arrays]
    content = json.dumps({**header, "arrays": [(array.dtype.str, array.shape) for array in arrays]}).encode()
    stream.write(struct.pack(">Q", len(content)) + content)
    for array in arrays:
        stream.write(array.tobytes())
    stream.flush()


def packed(value: Any, arrays: list[Any]) -> Any:
    """Return the structure of a value as JSON, with the position of an array in place of it."""
    if isinstance(value, dict):
        return {"dict": {key: packed(item, arrays) for key, item in value.items()}}
    if isinstance(value, (list, tuple)):
        return {"list": [packed(item, arrays) for item in value]}
    import numpy

    arrays.append(numpy.asarray(value))
    return len(arrays) - 1


def unpacked(structure: Any, arrays: list[Any]) -> Any:
    if isinstance(structure, int):
        return arrays[structure]
    if "dict" in structure:
        return {key: unpacked(item, arrays) for key, item in structure["dict"].items()}
    return [unpacked(item, arrays) for item in structure["list"]]


def check(folder: str, files: dict[str, str]) -> None:
    """Compare files with their checksums."""
    for name, expected in files.items():
        with open(os.path.join(folder, name), "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != expected:
                raise ValueError(f"{name} has changed since it was exported")


def call(run: Any, inputs: Any) -> Any:
    if isinstance(inputs, dict):
        return run(**inputs)
    return run(*inputs) if isinstance(inputs, list) else run(inputs)


class Server:
    """Opens files and answers what is asked of them."""

    def __init__(self) -> None:
        self.runs: list[Any] = []

    def open(self, header: dict[str, Any], _: list[Any]) -> tuple[dict[str, Any], list[Any]]:
        check(header["folder"], header["files"])
        sys.meta_path.insert(0, Blocked(set(header["blocked"])))
        scope: dict[str, Any] = {}
        exec(compile(header["source"], "run.py", "exec"), scope)
        run = scope["open"](header["folder"], types.SimpleNamespace(**header["params"]), header["threads"])
        self.runs.append(run)
        return {"file": len(self.runs) - 1}, []

    def answer(self, header: dict[str, Any], arrays: list[Any]) -> tuple[dict[str, Any], list[Any]]:
        outputs: list[Any] = []
        structure = packed(call(self.runs[header["file"]], unpacked(header["inputs"], arrays)), outputs)
        return {"outputs": structure}, outputs

    def time(self, header: dict[str, Any], arrays: list[Any]) -> tuple[dict[str, Any], list[Any]]:
        run, inputs = self.runs[header["file"]], unpacked(header["inputs"], arrays)
        start = time.perf_counter()
        for _ in range(header["calls"]):
            call(run, inputs)
        return {"seconds": time.perf_counter() - start}, []


def main() -> None:
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a runtime prints must not end up among the answers
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C stops the run, which ends this process
    server = Server()
    while True:
        header, arrays = receive(sys.stdin.buffer)
        if header is None:
            return
        try:
            reply, outputs = getattr(server, header["do"])(header, arrays)
        except BaseException as error:
            traceback.print_exc()
            reply, outputs = {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}, []
        send(answers, reply, outputs)


if __name__ == "__main__":
    main()
