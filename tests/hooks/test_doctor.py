"""`toolkit doctor`: every plugin is imported, and a broken one is explained and breaks nothing else."""

from click.testing import CliRunner

from toolkit.cli import main

HOOK = "import toolkit\n@toolkit.hookimpl\ndef {}\n"


def _doctor():
    result = CliRunner().invoke(main, ["doctor"])
    lines = {line.split("'")[1]: line for line in result.stdout.splitlines() if "'" in line}
    return result, lines


def test_all_is_well():
    result, lines = _doctor()
    assert result.exit_code == 0
    assert lines["pruning"].startswith("ok      'pruning' (torch-optimization-toolkit ")
    assert lines["pruning"].endswith("), technique")
    assert lines["profile"].endswith("), run-wide plugin")


def test_each_broken_plugin_is_explained_and_the_others_are_looked_at(make_plugin):
    make_plugin("missing", "import a_package_that_is_missing")
    make_plugin("extra", "import a_package_that_is_missing", extras="Provides-Extra: extra\n")
    make_plugin("buggy", "1 / 0")
    make_plugin("leaving", "raise SystemExit(3)")
    make_plugin("empty", "")
    make_plugin("misspelt", HOOK.format("optimise(model): return model"))
    make_plugin("observing", HOOK.format("on_row(rwo): pass"))
    make_plugin("fine", HOOK.format("optimize(model): return model"))
    result, lines = _doctor()
    assert result.exit_code == 1
    assert result.stderr == "error: 7 plugins are broken; recipes that do not name them still work\n"
    assert lines["missing"] == (
        "broken  'missing' (missing-plugin 1.0) cannot be imported: ModuleNotFoundError: No module named "
        "'a_package_that_is_missing'; install what it needs with pip install 'missing-plugin'"
    )
    assert "pip install 'extra-plugin[extra]'" in lines["extra"]
    assert "ZeroDivisionError: division by zero; update or uninstall buggy-plugin" in lines["buggy"]
    assert "SystemExit: 3" in lines["leaving"]
    assert "implements no hook; define at least one of finetune, finish, measure, optimize, prepare" in lines["empty"]
    assert "did you mean 'optimize'?" in lines["misspelt"]
    assert "did you mean 'row'?" in lines["observing"]
    assert lines["fine"] == "ok      'fine' (fine-plugin 1.0), technique"
    assert lines["pruning"].startswith("ok ")


def test_two_plugins_of_one_name_are_both_named(make_plugin, tmp_path):
    from toolkit.testing.distributions import write_distribution

    make_plugin("twin", HOOK.format("optimize(model): return model"))
    write_distribution(tmp_path / "installed-0", "other-plugin", {"twin": "plugin_twin"})
    result, lines = _doctor()
    assert result.exit_code == 1
    assert (
        lines["twin"]
        == "broken  'twin' is provided by both other-plugin 1.0 and twin-plugin 1.0; uninstall one of them"
    )
    assert "1 plugin is broken; recipes that do not name it still work" in result.stderr
