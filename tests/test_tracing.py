"""Exporters' noise is hidden, and what they leave in Python's logging is undone."""

import logging
import sys

import pytest

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
