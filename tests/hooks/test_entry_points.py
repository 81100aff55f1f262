"""Entry points of what is installed: read once, and again after a folder on `sys.path` changed."""

import importlib.metadata
import os
import shutil

import pytest

from toolkit.hooks.entry_points import entry_points
from toolkit.testing.distributions import write_distribution


def names(group="toolkit"):
    return {point.name for point in entry_points(group)}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    write_distribution(tmp_path, "first", {"one": "nowhere"})
    age(tmp_path)
    return tmp_path


def age(folder):
    os.utime(folder, ns=(1, 1))  # a file system's clock may tick too slowly for what a test does next


@pytest.mark.smoke
def test_metadata_is_read_once(folder, monkeypatch):
    first = names()
    assert "one" in first

    def read_again(**_):
        raise AssertionError("metadata was read again")

    monkeypatch.setattr(importlib.metadata, "entry_points", read_again)
    assert names() == first
    with pytest.raises(AssertionError, match="read again"):
        entry_points("another.group")


def test_what_is_installed_or_uninstalled_later_is_seen(folder):
    assert "two" not in names()
    info = write_distribution(folder, "second", {"two": "nowhere"})
    assert {"one", "two"} <= names()
    age(folder)
    names()
    shutil.rmtree(info)
    assert "two" not in names()


def test_what_another_folder_provides_is_seen(folder, tmp_path_factory, monkeypatch):
    assert "three" not in names()
    other = tmp_path_factory.mktemp("other")
    write_distribution(other, "third", {"three": "nowhere"})
    assert "three" not in names()
    monkeypatch.syspath_prepend(other)
    assert "three" in names()


def test_the_empty_folder_is_the_working_directory(tmp_path, monkeypatch):
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        age(tmp_path / name)
    write_distribution(tmp_path / "there", "fourth", {"four": "nowhere"})
    age(tmp_path / "there")
    monkeypatch.syspath_prepend("")
    monkeypatch.chdir(tmp_path / "here")
    assert "four" not in names()
    monkeypatch.chdir(tmp_path / "there")
    assert "four" in names()
