"""What all tests share: one thread, one seed, techniques made up on the spot, and runs without what costs most."""

import functools
import itertools
import lzma
import os
import pkgutil
import sys
from types import SimpleNamespace

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that tests start, too
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # or a run in such a process would say that the machine is busy

import pytest
import torch

from toolkit import timing
from toolkit.hooks import loading as techniques
from toolkit.metrics.support.time_budget import TimeBudget

begin = TimeBudget.__init__


def begin_short(budget, total_s, on_progress):
    begin(budget, min(total_s, 0.002), on_progress)


in_turn = timing.time_in_turn


@functools.wraps(in_turn)
def in_short_turn(calls, budget_s, **options):
    return in_turn(calls, min(budget_s, 0.005), **options)


# What a run leaves out unless the test's marker asks for it. Each takes longer than training a toy: a page is drawn by
# matplotlib, memory is measured in a process that imports torch, precise times take many rounds, and a kept result
# would hide that a test computes. The ratios that a busy machine spoils are kept, or tests would depend on what else it
# does.
LEFT_OUT = [
    ("page", "toolkit.report.writer.write_page", lambda report: None),
    ("memory", "toolkit.metrics.memory._start", lambda: None),
    ("precise", "toolkit.metrics.support.time_budget.TimeBudget.__init__", begin_short),
    ("precise", "toolkit.metrics.support.time_budget.MIN_LIMIT_S", 2.0),  # for six rounds beside busy neighbors
    ("precise", "toolkit.timing.time_in_turn", in_short_turn),
    ("precise", "toolkit.exports.time_file.BLOCK_S", 1e-4),
    ("precise", "toolkit.exports.time_file.SETTLE_S", 0.0),
    ("load", "toolkit.runner.row_times.spoilt_sizes", lambda times, baseline: set()),
    ("load", "toolkit.timing.MAX_SPAN", float("inf")),
    ("cache", "toolkit.runner.stages_folder", lambda: None),
    # No test asks for these. Every epoch is validated, or lists in a report would depend on how busy the machine is.
    ("never", "toolkit.runner.epochs.MAX_TIME_FRACTION", float("inf")),
    ("never", "lzma.decompress", functools.cache(lzma.decompress)),  # of MNIST: a third of a second
    ("never", "os.fsync", lambda descriptor: None),  # no test cuts the power, and a disk may take 10 ms
]
# Autograd starts its threads with the first backward pass, one for each device that PyTorch knows by then. Once a model
# was compiled or exported it knows of devices without hardware, and processes forked after that could not train.
torch.ones(1, requires_grad=True).sum().backward()
numbers = itertools.count()
PATCHES = [
    (marker, pkgutil.resolve_name(name.rpartition(".")[0]), name.rpartition(".")[2], replacement)
    for marker, name, replacement in LEFT_OUT
]
ONNX_REGISTRY = "torch.onnx._internal.exporter._registration"


@functools.cache
def read_once(read):
    return read()


def keep_translations(patch):
    """Let PyTorch parse its 500 functions that write ONNX once, and not again for every export."""
    if ONNX_REGISTRY in sys.modules and "onnxscript" in sys.modules:
        library = sys.modules[ONNX_REGISTRY].onnxscript_apis
        patch.setattr(library, "get_torchlib_ops", functools.partial(read_once, library.get_torchlib_ops))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Around a whole test, so that its fixtures of every scope see the same."""
    with pytest.MonkeyPatch.context() as patch:
        for marker, owner, name, replacement in PATCHES:
            if item.get_closest_marker(marker) is None:
                patch.setattr(owner, name, replacement)
        keep_translations(patch)
        return (yield)


@pytest.fixture(autouse=True)
def _seeded():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path_factory):
    """Every test, and every process that it starts, has a cache of its own, which is made when it is used."""
    monkeypatch.setenv("TOOLKIT_CACHE", str(tmp_path_factory.getbasetemp() / f"cache-of-test-{next(numbers)}"))


@pytest.fixture
def install(monkeypatch):
    """Makes an object with hooks a technique (or observer) that recipes can name."""
    real = techniques.load
    made = {}

    def load(name, role="technique"):
        return made[name, role] if (name, role) in made else real(name, role)

    def install(name, role="technique", **hooks):
        module = SimpleNamespace(**hooks)
        made[name, role] = techniques.from_module(module, name, "tests 1.0", role)

    monkeypatch.setattr(techniques, "load", load)
    return install
