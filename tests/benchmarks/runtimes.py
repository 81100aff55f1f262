"""Int8 networks in the files of each runtime against other ways to run the same float network, on one thread.

`python tests/benchmarks/runtimes.py [--network NAME] [--runtime NAME] [--batch SIZE] [--budget SECONDS]`, all options
repeatable but the last. All take turns, so that a busy machine slows them alike; a ratio is the median over the turns.
An opponent counts only if at least 99 % of its answers are those of the float network.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tabulate import tabulate
from toolkit_quantization import Params, convert
from torch import Tensor, nn

from toolkit import masks, tracing
from toolkit.data.splits import Data
from toolkit.exports.files import export_model
from toolkit.hooks import loading
from toolkit.models import lenet5
from toolkit.statistics import Floats
from toolkit.timing import median_ratio, ratio_interval, take_turns

MIN_AGREEMENT, MAX_RATIO = 0.99, 1.05
SAMPLES, LARGE_SAMPLES = 512, 128
MIN_ROUNDS = 15
Run = Callable[[Tensor], Tensor]


class Recurrent(nn.Module):
    """Three LSTM layers of 256 units over 40 features, and a linear layer on the last state."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(40, 256, 3, batch_first=True)
        self.leave = nn.Linear(256, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.leave(self.lstm(inputs)[0][:, -1])


def mlp() -> nn.Sequential:
    """The network of the paper on distillation."""
    layers = (nn.Linear(784, 1200), nn.ReLU(), nn.Linear(1200, 1200), nn.ReLU(), nn.Linear(1200, 10))
    return nn.Sequential(nn.Flatten(), *layers)


def vision(name: str) -> nn.Module:
    """A network of torchvision with random weights."""
    import torchvision

    return torchvision.models.get_model(name, weights=None)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "lenet5": (lenet5, (1, 28, 28)),
    "mlp": (mlp, (1, 28, 28)),
    "lstm": (Recurrent, (50, 40)),
    "resnet18-64": (lambda: vision("resnet18"), (3, 64, 64)),
    "mobilenet-64": (lambda: vision("mobilenet_v2"), (3, 64, 64)),
    "resnet18-224": (lambda: vision("resnet18"), (3, 224, 224)),
    "mobilenet-224": (lambda: vision("mobilenet_v2"), (3, 224, 224)),
}


def ours(model: nn.Module, data: Data, runtime: str, folder: Path, stack: ExitStack) -> Run:
    """Return the int8 network in the files of a runtime."""
    converted: Any = convert(nn.ModuleList([masks.clone(model)]), Params(arithmetic="int8"))
    plugin = loading.load(runtime, "runtime")
    exported = export_model(plugin, plugin.params_class(), converted[0], data, folder / runtime)
    return stack.enter_context(exported.opened(1))


def peers(model: nn.Module, example: Tensor, folder: Path) -> Iterator[tuple[str, Callable[[], Run]]]:
    """Yield what makes each of the other ways to run the float network."""
    yield "eager", lambda: model
    yield "torch.compile", lambda: torch.compile(masks.clone(model), dynamic=False)
    yield "quantize_dynamic", lambda: quantize_dynamic(model)
    yield "ORT float", lambda: onnx_session(onnx_file(model, example, folder))
    yield "ORT dynamic int8", lambda: onnx_session(onnx_dynamic(onnx_file(model, example, folder)))
    yield "OpenVINO float", lambda: openvino_model(model, example)


def quantize_dynamic(model: nn.Module) -> nn.Module:
    """PyTorch's own."""
    from torch.ao import quantization

    return quantization.quantize_dynamic(nn.Sequential(masks.clone(model)), {nn.Linear, nn.LSTM})[0]


def onnx_file(model: nn.Module, example: Tensor, folder: Path) -> Path:
    """Return PyTorch's own export."""
    path = folder / "peer.onnx"
    if not path.exists():
        shapes = tracing.dynamic_batch((example,))
        torch.onnx.export(model, (example,), path, dynamo=True, dynamic_shapes=shapes, external_data=False)
    return path


def onnx_dynamic(path: Path) -> Path:
    """Return the file that ONNX Runtime's own tool quantizes."""
    from onnxruntime import quantization

    quantized = path.with_name("peer-int8.onnx")
    quantization.quantize_dynamic(path, quantized)
    return quantized


def onnx_session(path: Path) -> Run:
    """Return the file, opened with one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda inputs: torch.from_numpy(session.run(None, {name: inputs.numpy()})[0])


def openvino_model(model: nn.Module, example: Tensor) -> Run:
    """Return OpenVINO's own conversion of the network, in float32."""
    import openvino

    settings = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    network = openvino.compile_model(openvino.convert_model(model, example_input=example), "CPU", settings)
    request = network.create_infer_request()

    def run(inputs: Tensor) -> Tensor:
        request.infer([inputs.numpy()])
        return torch.from_numpy(request.get_output_tensor(0).data.copy())

    return run


def block(run: Run, inputs: Tensor) -> Callable[[], float]:
    """Return a call that takes some milliseconds, and says how long one run took."""

    def seconds(calls: int) -> float:
        if hasattr(run, "seconds"):  # a file, which is timed in its own process
            return float(run.seconds(calls, inputs)) / calls
        started = time.perf_counter()
        for _ in range(calls):
            run(inputs)
        return (time.perf_counter() - started) / calls

    seconds(2)
    calls = max(1, round(0.005 / max(seconds(2), 1e-6)))
    return lambda: seconds(calls)


def times(runs: dict[str, Run], inputs: Tensor, budget_s: float) -> dict[str, Floats]:
    """Return the seconds of each, (rounds,), taken in turn."""
    blocks, deadline = [block(run, inputs) for run in runs.values()], time.perf_counter() + budget_s
    rounds = take_turns(blocks, lambda rounds: len(rounds) >= MIN_ROUNDS and time.perf_counter() > deadline)
    return dict(zip(runs, np.array(rounds).T, strict=True))


def agreement(run: Run, expected: Tensor, inputs: Tensor) -> float:
    """Return the fraction of samples with the float network's answer."""
    answers = torch.cat([run(part) for part in inputs.split(32)]).argmax(1)
    return float((answers == expected).double().mean())


def verdict(seconds: dict[str, Floats], agreements: dict[str, float]) -> str:
    """Return how our best runtime compares with the best opponent that keeps the answers."""
    fair = {name: float(np.median(seconds[name])) for name in seconds if agreements[name] >= MIN_AGREEMENT}
    mine, others = ({name: s for name, s in fair.items() if name.startswith("ours") == own} for own in (True, False))
    if not mine or not others:
        return "nothing to compare: " + ("ours changes answers" if not mine else "no opponent keeps the answers")
    best, opponent = min(mine, key=mine.__getitem__), min(others, key=others.__getitem__)
    ratio = median_ratio(seconds[best], seconds[opponent])
    low, high = ratio_interval(seconds[best], seconds[opponent])
    doubt = "" if low > 1 else ", but the interval contains 1"
    behind = f", BEHIND: more than {MAX_RATIO}{doubt}" if ratio > MAX_RATIO else ""
    return f"{best} takes {ratio:.2f} ({low:.2f}–{high:.2f}) of the time of {opponent}{behind}"


def compare(name: str, runtimes: list[str], batch_sizes: list[int], budget_s: float) -> None:
    """Print a table of one network."""
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    model, count = make().eval(), LARGE_SAMPLES if shape[-1] > 100 else SAMPLES
    inputs = torch.randn(count, *shape)
    data = Data(
        train=(inputs, torch.zeros(count, dtype=torch.int64)), test=(inputs, torch.zeros(count, dtype=torch.int64))
    )
    expected = torch.cat([model(part) for part in inputs.split(32)]).argmax(1)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        runs = dict(made(model, inputs[:2], data, runtimes, folder, stack))
        agreements = {way: agreement(run, expected, inputs) for way, run in runs.items()}
        for size in batch_sizes:
            seconds = times(runs, inputs[:size], budget_s)
            base = seconds["eager"]
            rows = [
                [way, median_ratio(s, base), *ratio_interval(s, base), agreements[way]] for way, s in seconds.items()
            ]
            print(f"\n{name}, batch {size}")
            print(tabulate(rows, ["", "to eager", "from", "to", "agreement"], floatfmt=".3f"))
            print(verdict(seconds, agreements), flush=True)


def made(
    model: nn.Module, example: Tensor, data: Data, runtimes: list[str], folder: Path, stack: ExitStack
) -> Iterator[tuple[str, Run]]:
    """Yield all ways to run the network that work; name the others."""
    for way, make in peers(model, example, folder):
        try:
            with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
                run = make()
                run(example)
            yield way, run
        except Exception as error:
            print(f"{way} fails: {str(error).splitlines()[0][:100]}")
    for runtime in runtimes:
        try:
            yield f"ours, {runtime}", ours(model, data, runtime, folder, stack)
        except Exception as error:
            print(f"ours, {runtime} fails: {str(error).splitlines()[0][:100]}")


@torch.no_grad()
def main() -> None:
    """Print a table for each network and batch size."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--network", action="append", choices=NETWORKS)
    parser.add_argument("--runtime", action="append")
    parser.add_argument("--batch", action="append", type=int)
    parser.add_argument("--budget", type=float, default=5.0)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    runtimes = chosen.runtime or ["onnxruntime", "openvino", "pt2", "aoti"]
    for name in chosen.network or NETWORKS:
        compare(name, runtimes, chosen.batch or [1, 32], chosen.budget)


if __name__ == "__main__":
    main()
