"""What is read of a plugin's source: its summary and its hooks, without running a line of it."""

import importlib
import sys
import zipfile

import pytest
from click.testing import CliRunner

from toolkit.cli import main
from toolkit.hooks.loading import installed
from toolkit.hooks.source import Source, read_source
from toolkit.testing.distributions import write_distribution

TRAP = "import sys\nsys.exit('this module was run')\n"


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes modules into a folder that is searched for modules."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(path, text):
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        importlib.invalidate_caches()

    return write


def test_the_summary_is_the_first_paragraph_of_the_docstring_on_one_line(write):
    write("one_module.py", f'"""Sums up\n   in two lines.\n\nAnd more.\n"""\n{TRAP}')
    assert read_source("one_module") == Source("Sums up in two lines.")


def test_packages_are_not_run_either_not_even_those_around_a_module(write):
    write("one_package/__init__.py", f'"""A package."""\n{TRAP}')
    write("one_package/inner/__init__.py", TRAP)
    write("one_package/inner/plugin.py", f'"""Deep inside."""\n{TRAP}')
    assert read_source("one_package").summary == "A package."
    assert read_source("one_package.inner.plugin").summary == "Deep inside."
    assert not any(name.startswith("one_package") for name in sys.modules)


def test_a_module_in_an_archive_is_read(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        archive.writestr("one_zipped.py", f'"""From an archive."""\n{TRAP}')
    monkeypatch.syspath_prepend(str(tmp_path / "archive.zip"))
    assert read_source("one_zipped").summary == "From an archive."


def test_hooks_are_found_however_they_are_marked(write):
    write(
        "marked.py",
        f"{TRAP}import toolkit\nfrom toolkit import hookimpl\n"
        "from torch.nn import finetune\nfrom marked.inner import on_row\n"
        "@hookimpl\ndef prepare(): pass\n@toolkit.hookimpl(tryfirst=True)\ndef optimize(): pass\ndef helper(): pass\n"
        "class Hooks:\n    @toolkit.hookimpl\n    def measure(self): pass\n",
    )
    assert read_source("marked").hooks == {"prepare", "optimize", "measure", "on_row"}


@pytest.mark.parametrize("text", ["", "def broken(:", "\x00", '"""   """'])
def test_of_a_module_that_says_nothing_nothing_is_known(text, write):
    write("silent.py", text)
    assert read_source("silent") == Source()


@pytest.mark.parametrize("module", ["no_such_module_at_all", "sys", "toolkit.no_such_module", ""])
def test_of_a_module_without_source_nothing_is_known(module):
    assert read_source(module) == Source()


def test_shipped_plugins_say_what_they_are():
    shipped = [plugin for plugin in installed() if plugin.distribution.startswith("torch-optimization-toolkit ")]
    observers = {plugin.name for plugin in shipped if plugin.roles == {"observer"}}
    assert observers == {"mlflow", "profile", "tensorboard"}
    runtimes = {"aoti", "onnxruntime", "openvino", "pt2"}
    assert all(plugin.roles == {"runtime"} for plugin in shipped if plugin.name in runtimes)
    assert all(plugin.roles == {"technique"} for plugin in shipped if plugin.name not in observers | runtimes)
    summaries = {plugin.summary for plugin in shipped}
    assert len(summaries) == len(shipped)
    assert all(summary.endswith(".") and len(summary) <= 110 for summary in summaries)


def test_the_list_has_each_plugin_s_own_summary_and_runs_none(make_plugin):
    make_plugin("documented", f'"""Documented: does one thing."""\n{TRAP}')
    make_plugin("undocumented", TRAP)
    result = CliRunner().invoke(main, ["techniques"])
    assert result.exit_code == 0
    lines = {line.split()[0]: line for line in result.stdout.splitlines()}
    assert lines["documented"].endswith("  Documented: does one thing.")
    assert lines["undocumented"].endswith("  Made for a test.")  # its distribution's
    assert "  Pruning: " in lines["pruning"]


def test_a_malformed_entry_point_is_listed_with_what_its_distribution_says(tmp_path, monkeypatch):
    write_distribution(tmp_path, "odd-plugin", {"odd": "not-a module"})
    monkeypatch.syspath_prepend(tmp_path)
    result = CliRunner().invoke(main, ["techniques"])
    assert result.exit_code == 0
    assert "odd-plugin 1.0" in result.stdout


def test_the_page_of_one_begins_with_it(make_plugin):
    hook = "import toolkit\n@toolkit.hookimpl\ndef optimize(model): return model\n"
    make_plugin("documented", f'"""Documented: does one thing."""\n{hook}')
    make_plugin("undocumented", hook)
    pages = {name: CliRunner().invoke(main, ["techniques", name]).stdout for name in ("documented", "undocumented")}
    assert pages["documented"].startswith("documented (documented-plugin 1.0)\n\nDocumented: does one thing.\n")
    assert pages["undocumented"].startswith("undocumented (undocumented-plugin 1.0)\n\nMade for a test.\n")
