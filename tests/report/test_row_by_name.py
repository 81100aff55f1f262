"""A row by the name of its stage, which several stages may have."""

import pytest

from toolkit.report import Report
from toolkit.rows import Row

REPORT = Report(
    name="run", seed=0, rows=tuple(Row(name, {}) for name in ("baseline", "pruning", "int8", "pruning")), environment={}
)


def test_a_name_of_one_row():
    assert REPORT.row("int8") is REPORT.rows[2]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("pruning", r"2 stages are named 'pruning'; use rows\[1\] or rows\[3\]"),
        ("quantization", "no stage 'quantization'; available: baseline, pruning, int8, pruning"),
    ],
)
def test_a_name_of_no_row_or_of_several(name, sentence):
    with pytest.raises(KeyError, match=sentence):
        REPORT.row(name)
