"""The contract of techniques, for factors of a share of the full rank, and for those that data decide about."""

from typing import Any, ClassVar

import pytest

from toolkit.testing import TechniqueContract


class TestLowRank(TechniqueContract):
    technique = "low-rank"
    params: ClassVar[dict[str, Any]] = {"rank": 0.3}


@pytest.mark.slow
class TestLowRankDataAware(TechniqueContract):
    technique = "low-rank"
    params: ClassVar[dict[str, Any]] = {"amount": 0.2, "data_aware": True, "samples": 64}
