"""Networks in the files of each runtime against other ways to run the same float network, on one thread.

`python tests/benchmarks/runtimes.py [--network NAME] [--runtime NAME] [--batch SIZE] [--way PART]
[--budget SECONDS] [--clock processor]`, all options repeatable but the last two; PART is of the names in the tables, of
which only those with such a part are timed, and eager PyTorch. All take turns, so that a busy machine slows them alike;
a ratio is the median over the turns. On a very busy machine the processor's clock is better: it stands still while
other processes run, but does not see how long a thread waits for another one.
A way to run the network counts only if at least 99 % of its answers are those of the float network. What is not
installed is left out: `pip install torchao openvino nncf`, and tests/real/README.md says how CREPE and MiniLM come.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from io import StringIO
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from runtime_networks import NETWORKS
from runtime_peers import Run, peers
from tabulate import tabulate
from toolkit_quantization import Params, convert
from toolkit_quantization.static.stage import calibrated, converted
from torch import Tensor, nn

from toolkit import masks
from toolkit.data.splits import Data
from toolkit.errors import TechniqueError
from toolkit.exports.files import export_model
from toolkit.hooks import loading
from toolkit.statistics import Floats
from toolkit.timing import median_ratio, ratio_interval, take_turns

MIN_AGREEMENT, MAX_RATIO = 0.99, 1.05
MIN_ROUNDS = 15
BLOCK_S, SETTLE_S = 0.005, 0.01
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
RUNTIMES = ["onnxruntime", "openvino", "pt2", "aoti"]
STATIC_RUNTIMES = ("onnxruntime", "openvino")  # the others compute static activations in float


def variants(model: nn.Module, data: Data, runtimes: list[str]) -> Iterator[tuple[str, str, nn.Module]]:
    """Yield what is exported of a network: a name, the runtime and the model."""
    kinds = {"float": model, "int8": in_int8(model, Params(arithmetic="int8"))}
    if any(isinstance(module, nn.LSTM) for module in model.modules()):
        kinds["int8 LSTM"] = in_int8(model, Params(arithmetic="int8", recurrent="int8"))
    for runtime in runtimes:
        yield from ((kind, runtime, made) for kind, made in kinds.items())
    params = Params(activations="static", max_drop=100.0)
    try:
        ready = calibrated(masks.clone(model), params, data)
    except TechniqueError as error:
        print(f"ours, static int8 fails: {error}")
        return
    static = converted(ready.model, ready, params).model
    for runtime in (name for name in runtimes if name in STATIC_RUNTIMES):
        yield "static int8", runtime, static


def in_int8(model: nn.Module, params: Params) -> nn.Module:
    """Return a copy, converted even if it is a single layer."""
    layers: Any = convert(nn.ModuleList([masks.clone(model)]), params)
    converted: nn.Module = layers[0]
    return converted


def opened(name: str, model: nn.Module, runtime: str, data: Data, folder: Path) -> Run:
    """Return a model in the files of a runtime, opened in this process as the others are."""
    plugin = loading.load(runtime, "runtime")
    exported = export_model(plugin, plugin.params_class(), model, data, folder / f"{runtime}-{name}")
    scope: dict[str, Any] = {}
    exec(exported.source, scope)
    run = scope["open"](str(exported.folder), SimpleNamespace(**exported.params), 1)
    return lambda inputs: torch.from_numpy(run(inputs.numpy()))


def block(run: Run, inputs: Tensor, clock: Callable[[], float]) -> Callable[[], float]:
    """Return a call that takes some milliseconds, and says how long one run took."""

    def seconds(calls: int) -> float:
        started = clock()
        for _ in range(calls):
            run(inputs)
        return (clock() - started) / calls

    seconds(2)
    calls = max(1, round(BLOCK_S / max(seconds(2), 1e-6)))

    def settled() -> float:
        time.sleep(SETTLE_S)
        seconds(calls)
        return seconds(calls)

    return settled


def times(runs: dict[str, Run], inputs: Tensor, chosen: argparse.Namespace) -> dict[str, Floats]:
    """Return the seconds of each, (rounds,), taken in turn."""
    blocks = [block(run, inputs, CLOCKS[chosen.clock]) for run in runs.values()]
    deadline = time.perf_counter() + chosen.budget
    rounds = take_turns(blocks, lambda rounds: len(rounds) >= MIN_ROUNDS and time.perf_counter() > deadline)
    return dict(zip(runs, np.array(rounds).T, strict=True))


def agreement(run: Run, expected: Tensor, inputs: Tensor) -> float:
    """Return the fraction of samples with the float network's answer."""
    answers = torch.cat([run(part) for part in inputs.split(32)]).argmax(1)
    return float((answers == expected).double().mean())


def verdict(seconds: dict[str, Floats], agreements: dict[str, float]) -> str:
    """Return how our best runtime compares with the best opponent that keeps the answers."""
    ratios = {name: median_ratio(each, seconds["eager"]) for name, each in seconds.items()}
    fair = {name: ratio for name, ratio in ratios.items() if agreements[name] >= MIN_AGREEMENT}
    mine, others = ({name: fair[name] for name in fair if name.startswith("ours") == own} for own in (True, False))
    if not mine or not others:
        return "nothing to compare: " + ("ours changes answers" if not mine else "no opponent keeps the answers")
    best, opponent = min(mine, key=mine.__getitem__), min(others, key=others.__getitem__)
    ratio = median_ratio(seconds[best], seconds[opponent])
    low, high = ratio_interval(seconds[best], seconds[opponent])
    doubt = "" if low > 1 else ", but the interval contains 1"
    behind = f", BEHIND: more than {MAX_RATIO}{doubt}" if ratio > MAX_RATIO else ""
    return f"{best} takes {ratio:.2f} ({low:.2f}–{high:.2f}) of the time of {opponent}{behind}"


def compare(name: str, chosen: argparse.Namespace) -> list[list[Any]]:
    """Print a table of one network for each batch size; return its verdicts."""
    torch.manual_seed(0)
    network, verdicts = NETWORKS[name], []
    model, inputs = network.ready()
    split = inputs, torch.zeros(len(inputs), dtype=torch.int64)
    data = Data(train=split, validation=split, test=split, batch_size=16)
    expected = torch.cat([model(part) for part in inputs.split(32)]).argmax(1)
    with tempfile.TemporaryDirectory() as folder:
        runs = dict(ways(model, inputs, data, chosen, Path(folder)))
        agreements = {way: agreement(run, expected, inputs) for way, run in runs.items()}
        for size in chosen.batch or network.batch_sizes:
            seconds = times(runs, inputs[:size], chosen)
            base = seconds["eager"]
            rows = [
                [way, median_ratio(s, base), *ratio_interval(s, base), agreements[way]] for way, s in seconds.items()
            ]
            verdicts.append([name, size, verdict(seconds, agreements)])
            print(f"\n{name}, batch {size}, eager {1e3 * np.median(base):.3g} ms")
            print(tabulate(rows, ["", "to eager", "from", "to", "agreement"], floatfmt=".3f"))
            print(verdicts[-1][-1], flush=True)
    return verdicts


def ways(
    model: nn.Module, inputs: Tensor, data: Data, chosen: argparse.Namespace, folder: Path
) -> Iterator[tuple[str, Run]]:
    """Yield all ways to run the network that work; name the others."""
    offered = chain(peers(model, inputs, folder), ours(model, data, chosen.runtime or RUNTIMES, folder))
    for way, make in offered:
        is_wanted = not chosen.way or way == "eager" or any(part in way for part in chosen.way)
        if is_wanted and (run := tried(way, make, inputs[:2])) is not None:
            yield way, run


def ours(model: nn.Module, data: Data, runtimes: list[str], folder: Path) -> Iterator[tuple[str, Callable[[], Run]]]:
    """Yield names, and what makes each of the ways of the toolkit."""
    for kind, runtime, exported in variants(model, data, runtimes):
        yield f"ours, {kind}, {runtime}", partial(opened, kind, exported, runtime, data, folder)


def tried(way: str, make: Callable[[], Run], example: Tensor) -> Run | None:
    """Return a way that works; else print why not."""
    try:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            run = make()
            run(example)
        return run
    except Exception as error:
        print(f"{way} fails: {(str(error).splitlines() or [type(error).__name__])[0][:150]}", flush=True)
        return None


@torch.no_grad()
def main() -> None:
    """Print a table for each network and batch size, and at the end all verdicts."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--network", action="append", choices=NETWORKS)
    parser.add_argument("--runtime", action="append")
    parser.add_argument("--batch", action="append", type=int)
    parser.add_argument("--way", action="append")
    parser.add_argument("--budget", type=float, default=5.0)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    verdicts: list[list[Any]] = []
    for name in chosen.network or NETWORKS:
        try:
            verdicts += compare(name, chosen)
        except (FileNotFoundError, ModuleNotFoundError) as error:  # of a package that ships weights
            print(f"\n{name} is left out: {error}")
    print("\n" + tabulate(verdicts, ["network", "batch", "our best against the best peer that keeps the answers"]))


if __name__ == "__main__":
    main()
