"""Pytest fixtures for tests of plugins. Pytest imports this module everywhere, so torch is imported in the fixtures."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from toolkit.testing.outcome import Outcome


@pytest.fixture
def recipe_run(tmp_path: Path) -> Callable[..., Outcome]:
    """Return a function that runs a recipe: `recipe_run('[[stages]]\\ntechnique = "mine"')`.

    Missing tables `[model]`, `[data]` and `[measure]` are filled in with toys. Relative paths start from `tmp_path`.
    The function returns an `Outcome`, also for a run that fails.
    """
    from toolkit.testing.outcome import run_text

    def recipe_run(text: str, **options: Any) -> Outcome:
        return run_text(text, tmp_path, **options)

    return recipe_run


@pytest.fixture
def make_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Yield a function that installs a plugin for one test: `make_plugin("mine", "import toolkit …")`.

    Recipes in this process can use the plugin; its distribution is `mine-plugin 1.0`.
    """
    from toolkit.hooks import loading as techniques
    from toolkit.testing.distributions import write_distribution

    modules: list[str] = []

    def make_plugin(name: str, source: str, **options: Any) -> None:
        module = f"plugin_{name}"
        folder = tmp_path / f"installed-{len(modules)}"
        folder.mkdir()
        (folder / f"{module}.py").write_text(source, encoding="utf-8")
        write_distribution(folder, f"{name}-plugin", {name: module}, **options)
        monkeypatch.syspath_prepend(folder)
        modules.append(module)

    techniques.load.cache_clear()
    yield make_plugin
    techniques.load.cache_clear()
    for module in modules:
        sys.modules.pop(module, None)
