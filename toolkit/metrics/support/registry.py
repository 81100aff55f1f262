"""All metrics: one for each module of `toolkit.metrics`."""

from __future__ import annotations

import sys
from importlib import import_module
from pkgutil import iter_modules

from toolkit.errors import ToolkitError
from toolkit.metrics.support.metric import Metric, Quantity

PACKAGE = "toolkit.metrics"


def all_metrics() -> dict[str, Metric]:
    """Return all metrics by the name of their module, in the order in which they are measured.

    Raises:
        ToolkitError: a module defines no metric.
    """
    names = sorted(module.name for module in iter_modules(sys.modules[PACKAGE].__path__) if not module.ispkg)
    metrics = {name: _metric(f"{PACKAGE}.{name}") for name in names}
    return dict(sorted(metrics.items(), key=lambda item: item[1].order))


def _metric(module: str) -> Metric:
    metric = getattr(import_module(module), "METRIC", None)
    if isinstance(metric, Metric):
        return metric
    if metric is None:
        raise ToolkitError(f"{module}: has no METRIC; define it, or move the module to {PACKAGE}.support")
    raise ToolkitError(f"{module}: METRIC must be a Metric, found {type(metric).__name__}")


def all_quantities() -> dict[str, Quantity]:
    """Return the quantities of all metrics by key."""
    return {quantity.key: quantity for metric in all_metrics().values() for quantity in metric.quantities}
