"""One stage in the files of several runtimes, timed in turn, and which of them is the fastest on this machine."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tabulate import tabulate
from torch import nn

from toolkit.data.splits import Data
from toolkit.errors import TechniqueError, ToolkitError
from toolkit.exports.files import ExportedModel, export_model
from toolkit.exports.judge import Judge
from toolkit.exports.process import OpenedFile
from toolkit.exports.time_file import times_in_turn
from toolkit.hooks import loading
from toolkit.masks import folded
from toolkit.runner.environment import fixed_threads
from toolkit.runner.export_files import opened
from toolkit.runner.export_run import open_stage
from toolkit.runner.runtimes import installed_runtimes
from toolkit.runner.saved_run import NamedCode
from toolkit.statistics import Floats
from toolkit.timing import is_known, median_ratio, ratio_interval

PYTORCH = "PyTorch"


@dataclass(frozen=True)
class Bench:
    """How long a call of each file takes.

    `seconds` by batch size and runtime, (rounds,) each, taken in turn; `sizes_bytes` of the files; `refusals`: why a
    runtime has no file.
    """

    seconds: Mapping[int, Mapping[str, Floats]]
    sizes_bytes: Mapping[str, int]
    refusals: Mapping[str, str]

    def fastest(self, size: int) -> list[str]:
        """Return the runtimes that may be the fastest at a batch size: the best median, and those like it."""
        seconds = self.seconds[size]
        best = min(seconds, key=lambda name: float(np.median(seconds[name])))
        others = [name for name in seconds if name != best]
        return [best, *(name for name in others if ratio_interval(seconds[name], seconds[best])[0] <= 1)]

    def table(self) -> str:
        """Return a line for each runtime: its files' bytes, and per batch size ms and the ratio to PyTorch."""
        headings = ["runtime", "kB"]
        for size in self.seconds:
            headings += [f"ms at {size}", "to PyTorch", "95 % interval"]
        names = next(iter(self.seconds.values()))
        return tabulate([self._line(name) for name in names], headings, disable_numparse=True)

    def _line(self, name: str) -> list[str]:
        cells = [name, f"{self.sizes_bytes[name] / 1e3:,.1f}" if name in self.sizes_bytes else ""]
        for seconds in self.seconds.values():
            own, base = seconds[name], seconds[PYTORCH]
            cells += _cells(own, base)
        return cells

    def recommendation(self) -> list[str]:
        """Return a sentence for each batch size, which names one runtime only if the intervals allow it."""
        if not self.sizes_bytes:
            return ["There is no file to compare with PyTorch."]
        return [_sentence(size, self.fastest(size), len(seconds)) for size, seconds in self.seconds.items()]


def _cells(own: Floats, base: Floats) -> list[str]:
    """Return ms, ratio and interval; a time that could contradict the ratio, taken in turn, would mislead."""
    low, high = interval = ratio_interval(own, base)
    if not is_known(interval):
        return [f"{np.median(own) * 1e3:.3g}", "?", "?"]
    ratio = median_ratio(own, base)
    return [f"{np.median(base) * ratio * 1e3:.3g}", f"{ratio:.3f}", f"{low:.3f}–{high:.3f}"]


def _sentence(size: int, fastest: Sequence[str], count: int) -> str:
    if len(fastest) == 1:
        return f"At batch size {size}, {fastest[0]} is the fastest on this machine."
    alike = ", ".join(fastest[:-1]) + f" and {fastest[-1]}"
    others = "; the others are slower" if len(fastest) < count else ""
    return f"At batch size {size}, {alike} cannot be told apart{others}."


def bench(
    model: nn.Module,
    data: Data,
    runtimes: Sequence[str],
    sizes: Sequence[int],
    budget_s: float,
    blocked: Sequence[str] = (),
    on_progress: Callable[[str], None] = lambda _: None,
) -> Bench:
    """Export a model to each runtime, verify the files, and time them in turn with the model in PyTorch.

    Args:
        model: any; a copy is exported.
        data: the files are compared with the model over its test split, else its validation split.
        runtimes: names of plugins.
        sizes: samples per call.
        budget_s: seconds for the timing; a few rounds are always timed.
        blocked: packages that cannot be imported where files are opened, besides the toolkit and its plugins.
        on_progress: called with what begins, in words.
    """
    model = folded(model).eval().cpu()
    judge = Judge(model, data, "test" if data.test is not None else "validation")
    files: dict[str, OpenedFile] = {}
    sizes_bytes: dict[str, int] = {}
    refusals: dict[str, str] = {}
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for name in runtimes:
            on_progress(f"exporting to {name}")
            try:
                exported = _export(name, model, data, root / name)
                files[name] = stack.enter_context(_verified(exported, judge, blocked))
                sizes_bytes[name] = exported.size_bytes
            except ToolkitError as error:
                refusals[name] = str(error)
        on_progress(f"timing {len(files)} {'file' if len(files) == 1 else 'files'} and the model in PyTorch")
        names = (PYTORCH, *files)
        seconds = {
            size: dict(zip(names, times_in_turn(files, model, data, size, budget_s / len(sizes)), strict=True))
            for size in sizes
        }
    return Bench(seconds, sizes_bytes, refusals)


def _export(name: str, model: nn.Module, data: Data, folder: Path) -> ExportedModel:
    plugin = loading.load(name, "runtime")
    return export_model(plugin, plugin.params_class(), model, data, folder)


def _verified(exported: ExportedModel, judge: Judge, blocked: Sequence[str]) -> OpenedFile:
    """Return the opened file; a `TechniqueError` if it does not match the model."""
    file = opened(exported, blocked)
    try:
        comparison = judge.compare(file)
        if not comparison.is_close:
            raise TechniqueError(f"'{exported.runtime}': the exported file does not match the model, {comparison}")
    except BaseException:
        file.__exit__(None, None, None)
        raise
    return file


@fixed_threads(None)
def bench_run(
    directory: str | Path,
    runtimes: Sequence[str] = (),
    stage: str | None = None,
    *,
    data: str | None = None,
    task: str | None = None,
    allow: Sequence[str] = (),
    budget_s: float = 20.0,
    on_progress: Callable[[str], None] = lambda _: None,
) -> Bench:
    """Compare runtimes on a stage of a finished run, at one sample and at the run's batch size.

    Args:
        directory: a run directory.
        runtimes: names of runtimes; all that are installed by default.
        stage: name of a stage, number and name (`2-pruning`), or `baseline`; the last stage by default.
        data: data source instead of the run's; required if the run's is Python code.
        task: task instead of the run's; required if the run's is Python code.
        allow: what the network consists of, as for `toolkit.load`, such as `nets.py:Net`.
        budget_s: seconds for the timing.
        on_progress: called with what begins, in words.

    Raises:
        InputError: a runtime or the stage does not exist, or something cannot be read.
    """
    for name in runtimes:
        loading.find(name, "runtime")
    command = ["toolkit", "bench", str(directory), *(word for name in runtimes for word in ("--runtime", name))]
    command += [] if stage is None else ["--stage", stage]
    model, samples = open_stage(Path(directory), stage, NamedCode(allow, data, task), command)
    packages = [source.partition(":")[0].partition(".")[0] for source in allow if ".py" not in source]
    sizes = sorted({1, samples.batch_size})
    return bench(model, samples, runtimes or installed_runtimes(), sizes, budget_s, packages, on_progress)
