"""What all tests share: one thread, because the models are small, one seed, and techniques made up on the spot."""

import os
from types import SimpleNamespace

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that tests start, too

import pytest
import torch

from toolkit.hooks import loading as techniques


@pytest.fixture(autouse=True)
def _seeded():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _cache(request, monkeypatch, tmp_path_factory):
    """Runs keep no results for each other unless a test is marked, and then in a cache of its own."""
    if request.node.get_closest_marker("cache") is None:
        monkeypatch.setattr("toolkit.runner.cache_folder", lambda: None)
    monkeypatch.setenv("TOOLKIT_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(autouse=True)
def _no_memory(request, monkeypatch):
    """Runs measure no memory unless a test is marked: every one of them would start a process that imports torch."""
    if request.node.get_closest_marker("memory") is None:
        monkeypatch.setattr("toolkit.metrics.memory._start", lambda: None)


@pytest.fixture
def no_page(monkeypatch):
    """Runs draw no page, which takes longer than to train a toy."""
    monkeypatch.setattr("toolkit.report.writer.write_page", lambda report: None)


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
