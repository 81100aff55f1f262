"""Exported files that were damaged, swapped or made to do harm are not opened."""

import errno
import json
import os
import sys
import zipfile
from importlib.metadata import version

import pytest

import toolkit
from toolkit.errors import InputError, TechniqueError, ToolkitError
from toolkit.exports.archives import check_archives
from toolkit.exports.files import export_model
from toolkit.exports.manifest import read_manifest, write_manifest
from toolkit.exports.process import OpenedFile
from toolkit.exports.stored import stored_export
from toolkit.hooks import loading
from toolkit.storage.files import remove_partial_files
from toolkit.testing import toy_data, toy_mlp


@toolkit.hookimpl
def export(folder):
    (folder / "factor.txt").write_text("3")


@toolkit.hookimpl
def open(folder, params, threads):  # the hook's name and arguments
    from pathlib import Path

    factor = int(Path(f"{folder}/factor.txt").read_text())
    return lambda inputs: factor * inputs


@toolkit.hookimpl
def check(folder):
    if (folder / "factor.txt").read_text() == "0":
        raise toolkit.TechniqueError("factor.txt is hostile; do not open it")


def runtime(**hooks):
    functions = {"export": export, "open": open, **hooks}
    module = type("Module", (), {name: staticmethod(hook) for name, hook in functions.items()})
    return loading.from_module(module, "factor", "tests 1.0", "runtime")


def exported(folder, **hooks):
    return export_model(runtime(**hooks), toolkit.Params(), toy_mlp(), toy_data(64), folder / "factor")


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """An exported folder, and a function that opens it as a later command does."""
    plugin = runtime(check=check)
    monkeypatch.setattr("toolkit.exports.stored.load", lambda *_: plugin)
    return exported(tmp_path, check=check).folder


def truncate(folder):
    os.truncate(folder / "factor.txt", 0)


def swap(folder):
    (folder / "factor.txt").write_text("4")


def tamper_with_the_script(folder):
    (folder / "run.py").write_text("import os")


def remove(folder):
    (folder / "factor.txt").unlink()


def add(folder):
    (folder / "more.so").write_bytes(b"\x7fELF")


def link(folder):
    (folder / "factor.txt").unlink()
    (folder / "elsewhere").write_text("3")
    (folder / "factor.txt").symlink_to((folder / "elsewhere").rename(folder.parent / "elsewhere"))


def replace_by_a_pipe(folder):
    (folder / "factor.txt").unlink()
    os.mkfifo(folder / "factor.txt")


CHANGES = [
    (replace_by_a_pipe, r"factor\.txt has changed since it was exported"),
    (truncate, "factor.txt has changed since it was exported; export the model again$"),
    (swap, "factor.txt has changed since it was exported"),
    (tamper_with_the_script, "run.py has changed since it was exported"),
    (remove, "lacks its file factor.txt; export the model again$"),
    (add, "more.so is not in the manifest; remove it or export the model again$"),
    (link, "factor.txt has changed since it was exported"),
]


@pytest.mark.smoke
def test_the_manifest_names_files_and_version(stored):
    manifest = json.loads((stored / "manifest.json").read_text())
    assert sorted(manifest["files"]) == ["README.md", "factor.txt", "run.py"]
    assert (manifest["toolkit"], manifest["runtime"], manifest["params"]) == (
        version("torch-optimization-toolkit"),
        "factor",
        {},
    )
    with stored_export(stored).opened(1) as file:
        assert file(toy_data(64).example(1).inputs).shape == (1, 1, 8, 8)


@pytest.mark.parametrize(("change", "sentence"), CHANGES, ids=lambda value: getattr(value, "__name__", ""))
def test_changed_files_are_not_opened(change, sentence, stored, tmp_path):
    change(stored)
    with pytest.raises(InputError, match=sentence):
        stored_export(stored)
    exporting = exported(tmp_path / "again")
    change(exporting.folder)
    with pytest.raises(InputError, match=sentence):
        exporting.opened(1)


def test_files_that_are_swapped_with_their_manifest_are_not_those_that_were_exported(tmp_path):
    file = exported(tmp_path)
    swap(file.folder)
    write_manifest(file.folder, "factor", {})
    with pytest.raises(InputError, match=r"factor\.txt has changed"):
        file.opened(1)


def test_the_other_process_compares_the_files_too(tmp_path):
    file = exported(tmp_path)
    swap(file.folder)
    with pytest.raises(
        TechniqueError, match=r"cannot be opened: ValueError: factor\.txt has changed since it was expo"
    ):
        OpenedFile(file.folder, file.source, {}, 1, [], "the file", file.files)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "is not an exported model: it has no manifest.json$"),
        ("{", "manifest.json is damaged; export the model again$"),
        ("[]", "manifest.json is damaged"),
        ("[" * 100_000, "manifest.json is damaged"),
        (" " * 2_000_000, "manifest.json is not a manifest of the toolkit"),
        ('{"format": 1, "files": {}}', "manifest.json is damaged"),
        ('{"format": 2}', r"was written by a newer version of the toolkit \(format 2, this version reads up to 1\);"),
    ],
)
def test_manifests_that_cannot_be_read(content, sentence, tmp_path):
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(InputError, match=sentence):
        read_manifest(tmp_path)


def test_a_manifest_that_never_ends(tmp_path):
    (tmp_path / "manifest.json").symlink_to("/dev/zero")
    with pytest.raises(InputError, match=r"manifest\.json is not a manifest of the toolkit"):
        read_manifest(tmp_path)


def test_a_manifest_cannot_name_files_elsewhere(stored):
    manifest = json.loads((stored / "manifest.json").read_text())
    manifest["files"]["../factor.txt"] = manifest["files"].pop("factor.txt")
    (stored / "factor.txt").rename(stored.parent / "factor.txt")
    (stored / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"lacks its file \.\./factor.txt"):
        stored_export(stored)


def test_files_that_can_hold_code_need_trust(tmp_path, monkeypatch):
    file = exported(tmp_path)
    monkeypatch.setattr("toolkit.exports.stored.load", lambda *_: runtime())
    with pytest.raises(
        InputError, match=r"files of factor can hold native code; pass --trust if you know their author$"
    ):
        stored_export(file.folder)
    assert stored_export(file.folder, trust=True).files == file.files


def test_the_script_in_the_folder_is_never_run(stored):
    """A folder whose manifest fits is opened with the installed runtime's script."""
    (stored / "run.py").write_text("raise SystemExit('run')")
    write_manifest(stored, "factor", {})
    with stored_export(stored).opened(1) as file:
        assert file(toy_data(64).example(1).inputs).shape == (1, 1, 8, 8)


def test_the_runtime_examines_its_files_before_they_are_opened(stored):
    (stored / "factor.txt").write_text("0")
    write_manifest(stored, "factor", {})
    with pytest.raises(TechniqueError, match=r"factor\.txt is hostile; do not open it"):
        stored_export(stored).opened(1)


def archive(folder, *entries):
    path = folder / "model.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in entries:
            file.writestr(name, content)
    return path


def test_an_archive_that_says_how_large_it_is(tmp_path):
    archive(tmp_path, ("weights", bytes(5_000_000)))
    with pytest.raises(InputError, match=r"model\.zip would unpack to more than 200 times its size; do not open it$"):
        check_archives(tmp_path)


def test_an_archive_that_says_less_than_it_is(tmp_path):
    path = archive(tmp_path, ("weights", bytes(5_000_000)))
    size = (5_000_000).to_bytes(4, "little")
    path.write_bytes(path.read_bytes().replace(size, (100).to_bytes(4, "little")))
    with pytest.raises(InputError, match=r"model\.zip: its entry 'weights' is longer than declared; do not open it$"):
        check_archives(tmp_path)


def test_a_truncated_archive(tmp_path):
    path = archive(tmp_path, ("weights", os.urandom(5_000)))
    content = path.read_bytes()
    path.write_bytes(content[:30] + content[3_000:])
    with pytest.raises(InputError, match=r"model\.zip is a damaged archive"):
        check_archives(tmp_path)


def test_archives_of_weights_pass(tmp_path):
    archive(tmp_path, ("weights", os.urandom(100_000)), ("zeros", bytes(100_000)))
    check_archives(tmp_path)


def test_a_full_disk_is_a_sentence_and_leaves_what_was_there(tmp_path):
    def full(folder):
        (folder / "factor.txt").write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    exported(tmp_path)
    with pytest.raises(ToolkitError, match=f"^cannot write {tmp_path / 'factor'}: No space left on device$"):
        exported(tmp_path, export=toolkit.hookimpl(full))
    assert [path.name for path in tmp_path.iterdir()] == ["factor"]
    assert (tmp_path / "factor" / "factor.txt").read_text() == "3"


def test_an_interrupted_export_leaves_what_was_there(tmp_path):
    def interrupted(folder):
        (folder / "factor.txt").write_text("half")
        raise KeyboardInterrupt

    exported(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        exported(tmp_path, export=toolkit.hookimpl(interrupted))
    assert [path.name for path in tmp_path.iterdir()] == ["factor"]
    assert (tmp_path / "factor" / "factor.txt").read_text() == "3"


def test_what_a_killed_export_leaves_is_removed(tmp_path):
    (tmp_path / ".factor.part").mkdir()
    (tmp_path / ".factor.part" / "factor.txt").write_text("half")
    remove_partial_files(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_runtime_that_hangs_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr("toolkit.exports.process.MAX_ANSWER_S", 0.5)
    source = "def open(folder, params, threads):\n    import time\n    time.sleep(60)"
    with pytest.raises(TechniqueError, match=r"^the file was not opened within 0\.5 s; its runtime hangs$"):
        OpenedFile(tmp_path, source, {}, 1, [], "the file")


def test_no_runtime_is_installed(monkeypatch):
    with pytest.raises(InputError, match="no runtime 'coreml' is installed"):
        loading.load("coreml", "runtime")
    loading.load.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] in ("onnxruntime", "toolkit_onnxruntime")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(
        TechniqueError, match=r"cannot be imported: .*onnxruntime.*; install what it needs with pip inst"
    ):
        loading.load("onnxruntime", "runtime")
    loading.load.cache_clear()
