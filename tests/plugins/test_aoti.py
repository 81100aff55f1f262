"""Compiled packages: outputs are the model's, and what a compiler does wrong is named."""

import time
import zipfile
from contextlib import closing
from pathlib import Path

import pytest
from exported_toys import DTYPES, check_answers, exported, quantized

from toolkit.errors import TechniqueError
from toolkit.exports.files import export_steps
from toolkit.hooks import loading
from toolkit.hooks.steps import Work
from toolkit.testing import toy_data, toy_mlp


@pytest.fixture
def runtime():
    return loading.load("aoti", "runtime")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("toy", "dtype"),
    [
        ("mlp", "int8"),
        ("lstm", "int8"),
        ("cnn", "int4"),
        ("transformer", "float"),
        ("tied", "float16"),
        ("mlp", "int2"),
    ],
)
def test_outputs_are_those_of_the_model(toy, dtype, runtime, tmp_path):
    model = quantized(toy, DTYPES[dtype])
    check_answers(exported(runtime, model, tmp_path), model)


@pytest.mark.slow
def test_a_package_has_no_tables_for_debuggers(runtime, tmp_path):
    file = exported(runtime, toy_mlp().eval(), tmp_path)
    with zipfile.ZipFile(file.folder / "model.pt2") as archive:
        (library,) = (archive.read(name) for name in archive.namelist() if name.endswith(".so"))
    assert b".debug_line" not in library


def test_a_missing_compiler_is_named(runtime, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(TechniqueError, match=r"needs a C\+\+ compiler, found none; install g\+\+") as problem:
        exported(runtime, toy_mlp().eval(), tmp_path)
    assert "\n" not in str(problem.value)
    assert capfd.readouterr() == ("", "")


def compiler_that(commands, folder, monkeypatch):
    """Put a compiler into the variable CXX that does this instead of compiling."""
    compiler = folder / "g++"
    compiler.write_text(f"#!/bin/sh\n{commands}\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder / "cache"))


def exporting(runtime, folder):
    steps = export_steps(runtime, runtime.params_class(), toy_mlp().eval(), toy_data(64), folder / "aoti")
    return Work(steps)


@pytest.mark.slow
def test_the_last_error_of_the_compiler_is_named(runtime, tmp_path, monkeypatch):
    compiler_that("echo 'model.cpp:1: error: no such type' >&2; exit 1", tmp_path, monkeypatch)
    with pytest.raises(TechniqueError, match=r"the compiler failed: .*model\.cpp:1: error: no such type$"):
        exporting(runtime, tmp_path).result()
    assert not list(tmp_path.glob("*aoti*"))


@pytest.mark.slow
def test_compilers_end_when_the_export_is_closed(runtime, tmp_path, monkeypatch):
    compiler_that(f"echo $$ > {tmp_path}/p && mv {tmp_path}/p {tmp_path}/pid; exec sleep 600", tmp_path, monkeypatch)
    with closing(exporting(runtime, tmp_path)):
        wait_until((tmp_path / "pid").exists)
        pid = int((tmp_path / "pid").read_text())
    wait_until(lambda: not is_running(pid))
    assert not list(tmp_path.glob("*aoti*"))


@pytest.mark.slow
def test_an_export_that_is_closed_does_not_end_another_one(runtime, tmp_path):
    first, second = exporting(runtime, tmp_path / "first"), exporting(runtime, tmp_path / "second")
    first.close()
    with closing(second):
        assert second.result().size_bytes > 0
    assert not list(tmp_path.glob("first/*aoti*"))


@pytest.mark.slow
def test_a_compiler_that_is_killed_is_named(runtime, tmp_path, monkeypatch):
    compiler_that("kill -9 $PPID; sleep 600", tmp_path, monkeypatch)
    with pytest.raises(TechniqueError, match=r"the compiler failed: its process ended with status -9$"):
        exporting(runtime, tmp_path).result()


def is_running(pid):
    """Return whether a process is there and not only waits to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition, timeout_s=120):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
