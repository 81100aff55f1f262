"""Exporters' noise is hidden, what they leave in logging is undone, and shared modules are separated."""

import logging
import sys

import pytest
from torch import nn

from toolkit import tracing


def test_what_an_exporter_prints_and_logs_is_hidden(capfd):
    with tracing.quiet():
        print("loud")
        print("louder", file=sys.stderr)
        logging.getLogger("exporter").error("loudest")
    assert capfd.readouterr() == ("", "")


def fail_as_exporters_do():
    root = logging.getLogger()
    root.setLevel(logging.CRITICAL)
    root.addHandler(logging.StreamHandler())
    root.addFilter(lambda _: False)
    raise ValueError("cannot convert")


def test_an_exporter_that_fails_leaves_the_root_logger_as_it_was():
    root = logging.getLogger()
    before = root.level, [*root.handlers], [*root.filters], root.manager.disable
    with pytest.raises(ValueError, match="cannot convert"), tracing.quiet():
        fail_as_exporters_do()
    assert (root.level, root.handlers, root.filters, root.manager.disable) == before


class Nested(nn.Module):
    """A module in two places, which holds a module in two places."""

    def __init__(self):
        super().__init__()
        inner = nn.Linear(4, 4)
        self.first = self.second = nn.Sequential(inner, nn.ReLU(), inner)

    def forward(self, inputs):
        return self.second(self.first(inputs))


def test_each_place_has_a_module_of_its_own_on_the_same_tensors():
    model = Nested().eval()
    twin = tracing.without_shared_modules(model)
    linear = [module for module in twin.modules() if isinstance(module, nn.Linear)]
    assert len(linear) == 4
    assert all(layer.weight is model.first[0].weight for layer in linear)
