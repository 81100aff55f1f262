"""Ratios of latencies that a busy machine has spoilt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toolkit.rows import Row

# Of the baseline's time in its own row and next to another row. A busy machine slows models differently: threads that
# wait actively for each other may take a hundred times as long, and those of another runtime no longer than before.
MAX_DRIFT = 2.0
OF_A_RATIO = ("latency_spread_ms", "latency_ratio", "latency_ratio_interval")


def without_spoilt_ratios(values: Mapping[str, Any], baseline: Row) -> dict[str, Any]:
    """Return a row's values without the ratios of batch sizes at which the baseline's own time has drifted.

    The time of a call divided by its ratio is the time of the baseline in the same rounds.
    """
    times, ratios = values.get("latency_ms") or {}, values.get("latency_ratio") or {}
    spoilt = {
        size
        for size, ratio in ratios.items()
        if (before := baseline.number("latency_ms", size)) and not _is_steady(times[size] / ratio, before)
    }
    if not spoilt:
        return dict(values)
    kept = {
        key: {size: number for size, number in values[key].items() if size not in spoilt}
        for key in OF_A_RATIO
        if values.get(key)
    }
    return {**values, **kept}


def _is_steady(now_ms: float, before_ms: float) -> bool:
    return 1 / MAX_DRIFT <= now_ms / before_ms <= MAX_DRIFT
