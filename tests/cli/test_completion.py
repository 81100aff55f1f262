"""What a shell proposes, and what it costs: neither it nor other commands import a plugin that is not named."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from toolkit.cli import completion, main
from toolkit.recipe.shipped import shipped
from toolkit.testing.distributions import write_distribution


@pytest.fixture
def proposed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place in ("mine.toml", "notes.txt", "more/other.toml", "runs/a/.toolkit-run", "runs/b/.toolkit-run", "x/c/y"):
        Path(place).parent.mkdir(parents=True, exist_ok=True)
        Path(place).touch()
    completer = ShellComplete(main, {}, "toolkit", "_TOOLKIT_COMPLETE")
    return lambda *words: [item.value for item in completer.get_completions([*words[:-1]], words[-1])]


@pytest.mark.smoke
def test_commands(proposed):
    assert proposed("te") == ["techniques"]
    assert {"run", "check", "doctor", "schema", "new"} <= {*proposed("")}
    assert proposed("new", "") == ["recipe", "runtime", "technique"]


def test_recipes(proposed):
    assert {"mnist", "papers/hinton-2015"} < set(shipped())
    assert proposed("run", "") == [*shipped(), "mine.toml", "more/", "runs/", "x/"]
    assert proposed("run", "mn") == ["mnist"]
    assert proposed("check", "mnist", "more/") == ["more/other.toml"]
    assert proposed("recipes", "m") == ["mnist"]


@pytest.mark.smoke
def test_plugins(proposed):
    assert {"pruning", "tensorboard"} <= {*proposed("techniques", "")}
    assert proposed("techniques", "pru") == ["pruning"]
    assert proposed("new", "recipe", "--technique", "quant") == ["quantization"]


@pytest.mark.parametrize("command", [["report"], ["diff"], ["diff", "runs/a"], ["evaluate"]])
def test_run_directories(proposed, command):
    assert proposed(*command, "") == ["runs/a", "runs/b"]
    assert proposed(*command, "runs/b") == ["runs/b"]
    assert proposed(*command, "x/") == ["x/c/"]


def test_the_mark_is_that_of_run_directories():
    from toolkit.storage.run_directory import MARK

    assert completion.MARK == MARK


class TestManyPlugins:
    """With fifty plugins installed, a command imports those that are named."""

    @pytest.fixture
    def imported(self, tmp_path):
        folder = tmp_path / "site"
        for number in range(50):
            write_distribution(folder, f"dummy-{number}", {f"dummy{number}": f"dummy_plugin_{number}"})
            source = "import toolkit\n@toolkit.hookimpl\ndef optimize(model): return model\n"
            (folder / f"dummy_plugin_{number}.py").write_text(source)
        (tmp_path / "toy.toml").write_text(
            '[model]\nsource = "toolkit.testing:toy_mlp"\n[data]\nsource = "toolkit.testing.toys:toy_data"\n'
            '[[stages]]\ntechnique = "dummy7"\n'
        )

        def imported(arguments, **environment):
            code = (
                "import sys, json\nfrom toolkit.cli import main\n"
                f"try: main({arguments!r}, prog_name='toolkit')\n"
                "finally: print(json.dumps(sorted(sys.modules)), file=sys.stderr)\n"
            )
            environment = {**os.environ, "PYTHONPATH": str(folder), **environment}
            done = subprocess.run(
                [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
            modules = json.loads(done.stderr.splitlines()[-1])
            return done.stdout, {name for name in modules if name.startswith(("toolkit_", "dummy_", "torch", "mlflow"))}

        return imported

    @pytest.mark.parametrize("arguments", [["--help"], ["techniques"], ["recipes"], ["check", "--help"]])
    def test_nothing_is_imported_to_list(self, imported, arguments):
        stdout, modules = imported(arguments)
        assert modules == set()
        assert stdout.count("dummy-") == (50 if arguments == ["techniques"] else 0)

    def test_completion_imports_nothing(self, imported):
        words = {"COMP_WORDS": "toolkit techniques dummy4", "COMP_CWORD": "2"}
        stdout, modules = imported([], _TOOLKIT_COMPLETE="bash_complete", **words)
        assert modules == set()
        assert stdout.split() == [f"plain,dummy{number}" for number in ("4", *range(40, 50))]

    @pytest.mark.slow
    @pytest.mark.parametrize("options", [[], ["--rehearse"]])
    def test_a_check_imports_what_the_recipe_names(self, imported, options):
        stdout, modules = imported(["check", "toy.toml", *options])
        assert stdout.startswith("toy.toml: ok")
        assert {name for name in modules if not name.startswith("torch")} == {"dummy_plugin_7"}

    @pytest.mark.slow
    def test_the_page_of_one_technique(self, imported):
        _, modules = imported(["techniques", "dummy3"])
        assert {name for name in modules if not name.startswith("torch")} == {"dummy_plugin_3"}
