"""All metrics: the modules of `toolkit.metrics` that define one."""

from __future__ import annotations

import sys
from importlib import import_module
from pkgutil import iter_modules

from toolkit.metrics.support.metric import Metric, Quantity

PACKAGE = "toolkit.metrics"


def all_metrics() -> dict[str, Metric]:
    """Return all metrics by the name of their module, in the order in which they are measured."""
    names = sorted(module.name for module in iter_modules(sys.modules[PACKAGE].__path__) if not module.ispkg)
    metrics = {name: getattr(import_module(f"{PACKAGE}.{name}"), "METRIC", None) for name in names}
    present = {name: metric for name, metric in metrics.items() if isinstance(metric, Metric)}
    return dict(sorted(present.items(), key=lambda item: item[1].order))


def all_quantities() -> dict[str, Quantity]:
    """Return the quantities of all metrics by key."""
    return {quantity.key: quantity for metric in all_metrics().values() for quantity in metric.quantities}
