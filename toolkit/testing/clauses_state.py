"""Clauses about everything but models: randomness, global settings, stdout, params and what is remembered."""

from __future__ import annotations

import inspect
import logging
import warnings
from dataclasses import replace
from typing import Any, get_args

from torch import nn

from toolkit.hooks.isolation import printed
from toolkit.recipe.read import PluginUse
from toolkit.runner.technique_numbers import named_measures
from toolkit.testing.base import ContractBase, same, state_of
from toolkit.timing import Timer, TimeRatio


class StateClauses(ContractBase):
    """What a technique leaves as it was, and what it says of itself."""

    def test_it_says_what_it_does(self) -> None:
        module = self._loaded().module
        assert inspect.getdoc(module), "give its module a docstring; `toolkit techniques NAME` prints it"

    def test_every_param_has_a_default_a_range_and_a_description(self) -> None:
        for name, field in self._loaded().params_class.model_fields.items():
            assert not field.is_required(), f"give the param '{name}' a default"
            assert field.description, f"give the param '{name}' a description"
            numeric = {int, float} & {field.annotation, *get_args(field.annotation)}
            assert not numeric or field.metadata, f"give the param '{name}' a range, such as Field(ge=0)"

    def test_its_params_can_be_written_and_read(self) -> None:
        params = self._use().params
        again = type(params).model_validate(params.model_dump(exclude_none=True))
        assert again == params, "params must stay equal when they are written and read"

    def test_the_same_seed_gives_the_same_result(self) -> None:
        results = [state_of(self._perform(self._trained()).model) for _ in range(2)]
        assert same(*results), "draw from torch's global generator, which the runner seeds, and from nothing else"

    def test_it_remembers_nothing_between_stages(self) -> None:
        first = state_of(self._perform(self._trained()).model)
        self._perform(self._trained(seed=1))
        assert same(state_of(self._perform(self._trained()).model), first), (
            "a stage in between changed the result; return what hooks need from prepare, and keep nothing in the module"
        )

    def test_its_resolved_params_repeat_what_it_decided_by_timing(self) -> None:
        if not self._loaded().takes("prepare", "timer"):
            return
        outcome = self._perform(self._trained())  # with a timer that counts instead
        resolved = outcome.params[0] or self._use().params

        def refuse(_: nn.Module) -> TimeRatio:
            raise AssertionError("with resolved params it asks its timer again; return from resolve what it decided")

        stage = replace(self._stage(), uses=(PluginUse(self._loaded(), resolved),))
        again = self._perform(self._trained(), timer=Timer("none", 1, refuse), stage=stage)
        assert same(state_of(again.model), state_of(outcome.model)), (
            "its resolved params give another result; return from resolve what it decided by timing"
        )

    def test_global_state_is_left_alone_and_nothing_is_printed(self) -> None:
        heard: list[str] = []
        handler = logging.Handler()
        handler.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]  # in this object only
        printed.addHandler(handler)
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                self._measured()  # raises a TechniqueError that names the setting that was changed
        finally:
            printed.removeHandler(handler)
        assert not heard, f"must not print, found {heard}; stdout is for the command's result"
        deprecated = [str(warning.message) for warning in caught if "deprecated" in str(warning.message).lower()]
        assert not deprecated, f"must not raise deprecation warnings, found {deprecated}"

    def test_global_hooks_of_torch_are_left_alone(self) -> None:
        before = _global_hooks()
        self._measured()
        assert _global_hooks() == before, "it registers hooks for all modules; remove them before the hook returns"

    def test_it_measures_numbers_or_notes_and_changes_nothing(self) -> None:
        outcome = self._perform(self._trained())
        before = state_of(outcome.model)
        once, again = (
            named_measures(self._use(), outcome.model, self.make_data(), outcome.prepared[0]) for _ in range(2)
        )
        assert same(state_of(outcome.model), before), "measure must not change the model; work on a toolkit.masks.clone"
        assert once == again, "two measurements differ; measure from nothing but the model and the data"
        names = [name.partition(".")[2] for name in once]
        assert all(name.isidentifier() for name in names), (
            f"names of measures must be Python identifiers, found {names}"
        )

    def _measured(self) -> dict[str, Any]:
        outcome = self._perform(self._trained())
        return named_measures(self._use(), outcome.model, self.make_data(), outcome.prepared[0])


def _global_hooks() -> dict[str, int]:
    return {
        name: len(hooks)
        for name, hooks in vars(nn.modules.module).items()
        if name.startswith("_global_") and hasattr(hooks, "__len__")
    }
