"""Contracts on a few toys; on all of them in the slow tests."""

from typing import Any, ClassVar

import pytest


class FewToys:
    """Makes the clauses on all toys but a few slow tests; inherit from it before the contract."""

    toys: ClassVar[Any]
    few: ClassVar[tuple[str, ...]] = ("mlp", "cnn")

    def pytest_generate_tests(self, metafunc: Any) -> None:
        if "toy" in metafunc.fixturenames:
            slow = [pytest.param(toy, marks=pytest.mark.slow) for toy in self.toys if toy not in self.few]
            metafunc.parametrize("toy", [*(toy for toy in self.toys if toy in self.few), *slow])
