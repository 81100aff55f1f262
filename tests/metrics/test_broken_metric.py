"""A metric that fails is named, and before a long training; so is a module without a metric."""

import sys
from textwrap import dedent

import pytest

import toolkit.metrics
from toolkit.metrics import all_metrics
from toolkit.runner.first_batch import REMEDY
from toolkit.testing import run_text

MODULE = """
    from torch import nn
    from toolkit.errors import ToolkitError
    from toolkit.metrics.support.metric import Metric

    def broken(subject):
        {body}

    METRIC = Metric(broken{options})
"""
LONG = {"model": {"source": "toolkit.testing:toy_mlp", "training": {"epochs": 1_000_000, "precision": "float32"}}}
WITHOUT_TRAINING = {"model": {"source": "toolkit.testing:toy_mlp"}}
STAGE = '[[stages]]\ntechnique = "pruning"'
FAILS = "return {'broken': 1 / 0}"


@pytest.fixture
def add_metric(tmp_path, monkeypatch):
    """Adds the module `broken` to `toolkit.metrics`."""

    def add_metric(body, options="", module=MODULE):
        (tmp_path / "broken.py").write_text(dedent(module).format(body=body, options=options))
        monkeypatch.setattr(toolkit.metrics, "__path__", [*toolkit.metrics.__path__, str(tmp_path)])

    yield add_metric
    sys.modules.pop("toolkit.metrics.broken", None)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (FAILS, " failed with ZeroDivisionError: division by zero"),
        ("return None", " failed with TypeError: 'NoneType' object is not iterable"),
        ("raise ToolkitError('the model is too deep')", ": the model is too deep"),
    ],
    ids=["raises", "returns nothing", "refuses"],
)
def test_a_failing_metric_is_named_with_its_stage(add_metric, tmp_path, body, said):
    add_metric(body)
    error = run_text(STAGE, tmp_path, WITHOUT_TRAINING).error
    assert error == f"stage 0 (baseline): the metric 'broken'{said}"


def test_a_failing_metric_is_told_before_a_long_training(add_metric, tmp_path):
    add_metric(FAILS)
    outcome = run_text(STAGE, tmp_path, LONG)
    assert outcome.error.splitlines() == [
        "stage 0 (baseline): the metric 'broken' failed with ZeroDivisionError: division by zero",
        REMEDY,
    ]
    assert not outcome.directory.exists()


def test_a_metric_that_only_a_stage_breaks_is_told_before_training(add_metric, install, tmp_path):
    add_metric("return {'broken': subject.model[1].in_features}")
    install("wrap", optimize=toolkit.hookimpl(lambda model: toolkit.testing.toy_cnn()))
    error = run_text('[[stages]]\ntechnique = "wrap"', tmp_path, LONG).error
    assert error.startswith("stage 1 (wrap): the metric 'broken' failed with AttributeError")


def test_a_metric_that_takes_seconds_is_not_rehearsed(add_metric, tmp_path, monkeypatch):
    add_metric(FAILS, ", rehearsed=False")
    monkeypatch.setattr("toolkit.runner.first_batch.THRESHOLD_S", 0.0)
    error = run_text(STAGE, tmp_path).error
    assert error.startswith("stage 0 (baseline): the metric 'broken'")
    assert REMEDY not in error


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("metric = 1", "has no METRIC; define it, or move the module to toolkit.metrics.support"),
        ("METRIC = (1, 2)", "METRIC must be a Metric, found tuple"),
    ],
)
def test_a_module_without_a_metric_is_refused(add_metric, module, said):
    add_metric("", module=module)
    with pytest.raises(toolkit.ToolkitError) as caught:
        all_metrics()
    assert str(caught.value) == f"toolkit.metrics.broken: {said}"
