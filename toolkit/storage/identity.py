"""The identity of a run: hashes of everything that determines its results.

These are the recipe, the source code that it names, the data, and the hardware and library versions. Two runs with the
same identity have the same weights. A part that cannot be determined, such as the source code of a function typed into
a terminal, is None; results that depend on it are never taken from the cache.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.metadata import packages_distributions, version
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from toolkit.data.batches import Split, in_memory, split_length
from toolkit.data.splits import Data
from toolkit.importing import is_below
from toolkit.promises.trainable import trained_later
from toolkit.recipe.read import Recipe, Stage
from toolkit.recipe.successors import successors
from toolkit.recipe.timed_as import timed_as
from toolkit.seeding import preserve_generators
from toolkit.sources import Kind, Source, models_in, resolve
from toolkit.tensor_memory import memory

MAX_HASHED_SAMPLES = 32  # of a split that is not in memory
SPLITS = ("train", "validation", "test")


def run_identity(recipe: Recipe, data: Data, environment: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything that determines a run, by name, as JSON-serializable values."""
    return {
        "recipe": recipe.table.model_dump(by_alias=True, exclude_none=True),
        "sources": _sources(recipe),
        "data": data_fingerprint(data),
        "environment": machine(environment),
    }


def machine(environment: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts of the environment that determine how numbers are rounded."""
    names = ("toolkit", "torch", "processor", "capability", "threads", "device")
    return {**{name: environment[name] for name in names}, "toolkit source": _hash_of_toolkit()}


def result_keys(recipe: Recipe, identity: Mapping[str, Any]) -> list[str | None]:
    """Return a key for the model of every row: a hash of the recipe up to its stage, without the names of stages.

    A key is None if a part of the identity is unknown.
    """
    keys: list[str | None] = [_key(_baseline_parts(recipe, identity))]
    for stage, table in zip(recipe.stages, identity["recipe"]["stages"], strict=True):
        settings = {name: value for name, value in table.items() if name not in ("name", "from")}
        sources = [identity["sources"][name] for name in _sources_of(stage)]
        start = keys[stage.start]
        is_trained = trained_later(recipe.stages, stage) is not None  # a promise that the stage checks
        later = _later_parts(recipe, stage, identity)
        timed = _timing_parts(recipe, stage)
        keys.append(_key([start, stage.number, settings, sources, recipe.promises, is_trained, later, timed]))
    return keys


def _later_parts(recipe: Recipe, stage: Stage, identity: Mapping[str, Any]) -> list[Any]:
    """Return the later stages' settings, if a technique of `stage` reads them."""
    if not any(use.plugin.takes("finetune", "stages") for use in stage.uses):
        return []
    tables = (identity["recipe"]["stages"][later.number - 1] for later in successors(recipe.stages, stage))
    return [{name: value for name, value in table.items() if name not in ("name", "from")} for table in tables]


def _timing_parts(recipe: Recipe, stage: Stage) -> list[Any]:
    """Return what a timer measures, if a technique of `stage` asks it."""
    if not any(use.plugin.takes("prepare", "timer") and use.params.asks_timer for use in stage.uses):
        return []
    use, batch_size = timed_as(recipe, stage)
    if use is None:
        return [batch_size]
    settings = use.params.model_dump(mode="json", exclude_none=True)
    return [batch_size, use.plugin.name, settings, hash_of_module(use.plugin.module)]


def measuring_key(recipe: Recipe, identity: Mapping[str, Any]) -> str | None:
    """Return a hash of everything that determines how a row is measured; None if a part is unknown."""
    hashes = [hash_of_source(source, "data") for source in recipe.data.metrics]
    return _key([identity["recipe"].get("measure"), identity["recipe"].get("output"), recipe.data.batch_size, hashes])


def _baseline_parts(recipe: Recipe, identity: Mapping[str, Any]) -> list[Any]:
    content = identity["recipe"]
    names = (
        f"model {recipe.model.source}",
        f"data {recipe.data.source}",
        *(f"code {name}" for name in recipe.data.code),
    )
    sources = [identity["sources"][name] for name in names]
    weights = [value for name, value in identity["sources"].items() if name.startswith("weights ")]
    data = {key: value for key, value in content["data"].items() if key != "metrics"}
    return [content["model"], data, content["seed"], sources, weights, identity["data"], identity["environment"]]


def _key(parts: Any) -> str | None:
    if any(part is None for part in _flat(parts)):
        return None
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _flat(parts: Any) -> Iterator[Any]:
    if isinstance(parts, Mapping):
        for part in parts.values():
            yield from _flat(part)
    elif isinstance(parts, list):
        for part in parts:
            yield from _flat(part)
    else:
        yield parts


def _sources(recipe: Recipe) -> dict[str, str | None]:
    """Return a hash of the source code, or of the weights, for every name in a recipe."""
    hashes = {
        f"model {recipe.model.source}": hash_of_source(recipe.model.source, "model"),
        f"data {recipe.data.source}": hash_of_source(recipe.data.source, "data"),
        **{f"code {source}": hash_of_source(source, "data") for source in recipe.data.code},
        **_weights([recipe.model]),
    }
    for stage in recipe.stages:
        for use in stage.uses:
            hashes[f"technique {use.plugin.name}"] = hash_of_module(use.plugin.module)
            for source in _models(models_in(use.params)):
                hashes[f"model {source.source}"] = hash_of_source(source.source, "model")
                hashes |= _weights([source])
    return hashes


def _sources_of(stage: Stage) -> Iterator[str]:
    for use in stage.uses:
        yield f"technique {use.plugin.name}"
        for source in _models(models_in(use.params)):
            yield f"model {source.source}"


def _models(placed: Iterable[tuple[str, Source]]) -> Iterator[Source]:
    return (source for _, source in placed)


def _weights(sources: Iterable[Source]) -> dict[str, str]:
    files = [source.weights for source in sources if source.weights is not None]
    return {f"weights {file}": _hash_of_file(Path(file)) for file in files}


def _hash_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_of_source(source: str, kind: Kind) -> str | None:
    """Return a hash of the source code that a name leads to; the hash of the toolkit itself covers built-in names."""
    if ":" not in source:
        return "built in"
    target = resolve(source, kind)
    return hash_of_module(
        sys.modules.get(getattr(target, "__module__", ""), sys.modules.get(source.rpartition(":")[0]))
    )


def hash_of_module(module: Any) -> str | None:
    """Return a hash of a module: its file and the modules next to it that are imported; all files of a package."""
    file = getattr(module, "__file__", None)
    if not isinstance(module, ModuleType) or file is None or not Path(file).is_file():
        return None
    owners = dict.fromkeys(_distributions().get(module.__name__.partition(".")[0], []))
    digest = hashlib.sha256(json.dumps([version(owner) for owner in owners]).encode())
    for path in sorted(_files(Path(file), installed=bool(owners))):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


@cache
def _hash_of_toolkit() -> str | None:
    return hash_of_module(sys.modules["toolkit"])  # once: this process goes on with what it has imported


@cache
def _distributions() -> Mapping[str, list[str]]:
    return packages_distributions()  # slow: reads the metadata of every installed package


def _files(file: Path, installed: bool) -> set[Path]:
    if file.name == "__init__.py":
        return set(file.parent.rglob("*.py"))
    if installed:
        return {file}
    imported = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    return {file, *(Path(name) for name in imported if name and is_below(name, file.parent))}


def data_fingerprint(data: Data) -> dict[str, str | None]:
    """Return a hash of every split: of all samples if they are in memory, else of their number and some of them."""
    with preserve_generators():
        return {name: _split_fingerprint(data.split(name)) for name in SPLITS if getattr(data, name) is not None}


def _split_fingerprint(split: Split) -> str | None:
    stored = in_memory(split)
    digest = hashlib.sha256(str(split_length(split)).encode())
    samples: Any = stored
    if not isinstance(stored, tuple):
        torch.manual_seed(0)  # transforms may be random
        count = split_length(split)
        samples = [stored[number * count // MAX_HASHED_SAMPLES] for number in range(min(MAX_HASHED_SAMPLES, count))]
    leaves = tree_leaves(samples)
    for leaf in leaves:
        _add(digest, leaf)
    return digest.hexdigest()


def _add(digest: hashlib._Hash, leaf: Any) -> None:
    if isinstance(leaf, Tensor):
        digest.update(f"{leaf.dtype}{tuple(leaf.shape)}".encode())
        digest.update(memory(leaf))
    else:
        digest.update(repr(leaf).encode())
