"""What `toolkit new` writes as a distribution installs, passes its own tests and is listed."""

import os
import site
import subprocess
import venv
from pathlib import Path

import pytest
from click.testing import CliRunner

from toolkit.cli import main
from toolkit.cli.new import new


def test_every_kind_of_distribution_is_tried_here() -> None:
    assert {*new.commands} - {"recipe"} == {"technique", "runtime"}  # a recipe is no distribution


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["technique", "runtime"])
def test_it_installs_passes_its_own_tests_and_is_listed(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(main, ["new", kind, "weight-clip"]).exit_code == 0
    venv.create(tmp_path / "venv", system_site_packages=True, with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    _show_installed_to(python)
    folder = tmp_path / "toolkit-weight-clip"
    _succeed([python, "-m", "pip", "install", "-e", ".[test]"], folder)
    assert " passed" in _succeed([python, "-m", "pytest", "-q"], folder)
    assert "weight-clip" in _succeed([python, "-m", "toolkit", "techniques"], folder)
    assert "'weight-clip' (toolkit-weight-clip 0.1.0)" in _succeed([python, "-m", "toolkit", "doctor"], folder)


def _show_installed_to(python):
    """These tests may run in a virtual environment, whose packages another one does not see by itself."""
    place = _succeed([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], Path()).strip()
    lines = [f"import site; site.addsitedir({folder!r})" for folder in site.getsitepackages()]
    (Path(place) / "parent.pth").write_text("\n".join(lines))


def _succeed(command, folder):
    done = subprocess.run(
        [*map(str, command)],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
