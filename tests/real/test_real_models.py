"""Models that others trained, as int8: hardly worse than float, and a quarter of the size."""

from typing import Any

import pytest
import torch
from comparison import MODELS, measured_dynamic, run
from installed import missing, why_skipped

pytestmark = [pytest.mark.real, pytest.mark.precise]


@pytest.fixture(scope="module", params=MODELS)
def real(request, tmp_path_factory) -> Any:
    """A model and its recipe's run, once for all tests."""
    model = MODELS[request.param]
    if missing(*model.packages):
        pytest.skip(why_skipped(*model.packages))
    return model, run(model, tmp_path_factory.mktemp("run") / "run", {"measure.budget": 2.0})


def test_int8_keeps_the_quality(real):
    _, found = real
    assert found.drop(found.report.final) <= 0.5


def test_int8_takes_less_than_a_third_of_the_size_but_for_what_the_guard_returned(real):
    _, found = real
    left = found.report.final.notes.get("quantization.float")
    rows = [] if left is None else left.table
    returned_bytes = sum(4 * row["weights"] for row in rows if "returned to float" in row["reason"])
    assert found.report.final["size_bytes"] <= 0.3 * found.report.baseline["size_bytes"] + returned_bytes


def test_the_report_tells_the_time_of_a_call_at_both_batch_sizes(real):
    model, found = real
    timed_ms = found.report.final["latency_ms"]
    assert timed_ms.keys() == {"1", str(model.batch_size)}
    assert all(time_ms > 0 for time_ms in timed_ms.values())


def test_the_saved_model_answers_as_the_report_says(real):
    _, found = real
    # The result was opened from its file, the float model built anew: both go their way outside of the run.
    batch = next(iter(found.data.batches("test", batch_size=16)))
    with torch.inference_mode():
        outputs = [found.data.task.forward(model, batch) for model in (found.result, found.baseline)]
    same = found.data.task.answers(outputs[0]) == found.data.task.answers(outputs[1])
    assert same.float().mean() > 0.8
    assert not torch.equal(*outputs)


def test_quantize_dynamic_is_measured_beside_it(real):
    model, found = real
    dynamic = measured_dynamic(model, found, 0.2)
    assert dynamic.failure or (dynamic.row["samples"] == found.report.final["samples"] and dynamic.size_bytes > 0)
