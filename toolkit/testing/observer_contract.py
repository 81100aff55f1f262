"""What every run-wide plugin keeps to, as tests to inherit."""

from __future__ import annotations

import contextlib
import inspect
import logging
from pathlib import Path
from typing import Any, ClassVar, get_args

from toolkit.errors import ToolkitError
from toolkit.hooks import loading as techniques
from toolkit.hooks.isolation import printed
from toolkit.storage.run_directory import STAGES
from toolkit.testing.outcome import Outcome, run_text

OWN = "torch-optimization-toolkit "


class ObserverContract:
    """Inherit, set `plugin` to the name of the entry point, and let pytest collect the tests.

    `params` is what a recipe would say under the plugin's name.
    """

    plugin: ClassVar[str]
    params: ClassVar[dict[str, Any]] = {}

    def test_it_says_what_it_does(self) -> None:
        assert inspect.getdoc(self._loaded().module), "give its module a docstring; `toolkit techniques NAME` prints it"

    def test_every_param_has_a_default_a_range_and_a_description(self) -> None:
        for name, field in self._loaded().params_class.model_fields.items():
            assert not field.is_required(), f"give the param '{name}' a default"
            assert field.description, f"give the param '{name}' a description"
            numeric = {int, float} & {field.annotation, *get_args(field.annotation)}
            assert not numeric or field.metadata, f"give the param '{name}' a range, such as Field(ge=0)"

    def test_it_gets_through_a_run_and_prints_nothing(self, tmp_path: Path) -> None:
        heard: list[str] = []
        handler = logging.Handler()
        handler.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]  # in this object only
        printed.addHandler(handler)
        try:
            outcome = self._run(tmp_path)
        finally:
            printed.removeHandler(handler)
        assert outcome.error == "", outcome.error
        assert not heard, f"must not print, found {heard}; stdout is for the command's result"

    def test_it_changes_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "with").mkdir()
        (tmp_path / "without").mkdir()
        # Alone first: what the plugin leaves behind in the process would change that run, too.
        alone = self._run(tmp_path / "without", observed=False)
        watched = self._run(tmp_path / "with")
        for model in sorted(alone.directory.glob(f"{STAGES}/*/model.*")):
            other = watched.directory / model.relative_to(alone.directory)
            assert other.read_bytes() == model.read_bytes(), (
                f"{model.parent.name} has another model with this plugin; an observer must not change models"
            )

    def test_it_measures_every_row_alike(self, tmp_path: Path) -> None:
        rows = self._run(tmp_path).rows
        names = [{name for name in row.values if name.startswith(f"{self.plugin}.")} for row in rows]
        assert all(found == names[0] for found in names), f"rows have other numbers than the first one: {names}"

    def _loaded(self) -> techniques.Plugin:
        return techniques.load(self.plugin, "observer")

    def _run(self, folder: Path, observed: bool = True) -> Outcome:
        plugins = [{"name": self.plugin, "params": self.params}] if observed else []
        stage = {"technique": _any_technique(), "finetune": {"epochs": 1}}
        return run_text("", folder, {"plugins": plugins, "stages": [stage]})


def _any_technique() -> str:
    """Return an installed technique with which a stage trains, one of the toolkit's own if there is one."""
    found = sorted(techniques.installed(), key=lambda plugin: not plugin.distribution.startswith(OWN))
    for plugin in found:
        with contextlib.suppress(ToolkitError):
            if techniques.load(plugin.name).params_class().trainable_after:
                return plugin.name
    raise AssertionError("no technique is installed to run a stage with")
