"""What every runtime keeps to, as tests to inherit."""

from __future__ import annotations

import contextlib
import inspect
import io
from pathlib import Path
from typing import Any, ClassVar, get_args

import torch
from torch import nn

from toolkit.errors import TechniqueRefusal
from toolkit.exports.files import ExportedModel, export_model
from toolkit.exports.judge import compare
from toolkit.exports.portable import portable_source
from toolkit.hooks import loading
from toolkit.hooks.steps import Work, steps
from toolkit.params import Params
from toolkit.testing.base import same, state_of, traces
from toolkit.testing.toys import TOY_MODELS, toy_data, toy_mlp


class RuntimeContract:
    """Inherit, set `plugin` to the name of the entry point, and let pytest collect the tests.

    `params` is what a recipe would say under the runtime's name. The runtime may refuse a toy with a `TechniqueError`,
    but not `toy_mlp`.
    """

    plugin: ClassVar[str]
    params: ClassVar[dict[str, Any]] = {}
    toys: ClassVar[tuple[str, ...]] = tuple(TOY_MODELS)

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """Let pytest call a clause that takes `toy` for each of the `toys`."""
        if "toy" in metafunc.fixturenames:
            metafunc.parametrize("toy", self.toys)

    def test_it_says_what_it_does(self) -> None:
        assert inspect.getdoc(self._loaded().module), "give its module a docstring; `toolkit techniques NAME` prints it"

    def test_every_param_has_a_default_a_range_and_a_description(self) -> None:
        for name, field in self._loaded().params_class.model_fields.items():
            assert not field.is_required(), f"give the param '{name}' a default"
            assert field.description, f"give the param '{name}' a description"
            numeric = {int, float} & {field.annotation, *get_args(field.annotation)}
            assert not numeric or field.metadata, f"give the param '{name}' a range, such as Field(ge=0)"

    def test_open_runs_without_its_module(self) -> None:
        portable_source(self._loaded().open_source, self.plugin)

    def test_a_file_gives_the_answers_of_its_model_at_any_batch_size(self, toy: str, tmp_path: Path) -> None:
        torch.manual_seed(0)
        model = TOY_MODELS[toy]().eval()
        try:
            exported, data = self._export(model, tmp_path), toy_data(64)
        except TechniqueRefusal:
            return
        blocked = [plugin.entry_point.module.partition(".")[0] for plugin in loading.installed()]
        with exported.opened(1, blocked) as file:
            comparison = compare(file, model, data, "test")
        assert comparison.is_close, f"{comparison}"

    def test_it_leaves_the_model_unchanged(self, tmp_path: Path) -> None:
        model = toy_mlp().eval()
        state, traces_before = state_of(model), traces(model)
        loaded, params = self._loaded(), self._params()
        inputs = toy_data(64).example(2).inputs
        arguments = {"model": model, "params": params, "example": inputs, "free_sizes": frozenset({0})}
        Work(steps(loaded, "export", **arguments, folder=tmp_path)).result()
        assert same(state_of(model), state), "export must not write to the model's tensors"
        assert traces(model) == traces_before, "export must remove its hooks and attributes from the model"

    def test_it_prints_nothing(self, tmp_path: Path) -> None:
        printed = io.StringIO()
        with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(printed):
            self._export(toy_mlp().eval(), tmp_path)
        assert not printed.getvalue(), (
            f"must not print, found {printed.getvalue()!r}; stdout is for the command's result"
        )

    def _loaded(self) -> loading.Plugin:
        return loading.load(self.plugin, "runtime")

    def _params(self) -> Params:
        return self._loaded().params_class.model_validate(self.params)

    def _export(self, model: nn.Module, folder: Path) -> ExportedModel:
        return export_model(self._loaded(), self._params(), model, toy_data(64), folder / "exported")
