"""Fixtures for the tests of plugins; pytest finds them by the entry point, and no torch is imported for it."""

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
    """Runs a recipe given as text: `recipe_run('[[stages]]\\ntechnique = "mine"')`.

    What the text lacks of `[model]`, `[data]` and `[measure]` is filled in with toys; relative files lie in
    `tmp_path`. Returns an `Outcome` with `report`, `rows`, `model`, `directory`, `error`, `exit_code`, `stdout`,
    `stderr` and `log`; a run that fails raises nothing.
    """
    from toolkit.testing.outcome import run_text

    def recipe_run(text: str, **options: Any) -> Outcome:
        return run_text(text, tmp_path, **options)

    return recipe_run


@pytest.fixture
def make_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Installs a plugin of given source code for one test: `make_plugin("mine", "import toolkit …")`.

    Recipes of this process can name it; its distribution is `mine-plugin 1.0`.
    """
    from toolkit.hooks import loading as techniques
    from toolkit.testing.distributions import write_distribution

    made: list[str] = []

    def make_plugin(name: str, source: str, **options: Any) -> None:
        module = f"plugin_{name}"
        folder = tmp_path / f"installed-{len(made)}"
        folder.mkdir()
        (folder / f"{module}.py").write_text(source, encoding="utf-8")
        write_distribution(folder, f"{name}-plugin", {name: module}, **options)
        monkeypatch.syspath_prepend(folder)
        made.append(module)

    techniques.load.cache_clear()
    yield make_plugin
    techniques.load.cache_clear()
    for module in made:
        sys.modules.pop(module, None)
