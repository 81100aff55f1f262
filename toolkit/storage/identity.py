"""What determines a result: the recipe, the source text behind its names, the data, the machine's arithmetic.

Two runs with the same identity have the same weights. A part that cannot be known, such as the text of a function
that was typed into a terminal, is None: nothing that depends on it is taken from the cache.
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
from toolkit.promises.trainable import trained_later
from toolkit.recipe.read import Recipe, Stage
from toolkit.seeding import undisturbed
from toolkit.sources import Kind, Source, models_in, resolve

PROBED = 32  # samples of a split that does not lie in memory
SPLITS = ("train", "validation", "test")


def run_identity(recipe: Recipe, data: Data, environment: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that determines a run, by name, ready for JSON."""
    return {
        "recipe": recipe.table.model_dump(by_alias=True, exclude_none=True),
        "sources": _sources(recipe),
        "data": data_fingerprint(data),
        "environment": machine(environment),
    }


def machine(environment: Mapping[str, Any]) -> dict[str, Any]:
    """What of the environment decides how numbers are rounded."""
    names = ("toolkit", "torch", "processor", "capability", "threads", "device")
    return {**{name: environment[name] for name in names}, "toolkit source": text_of(sys.modules["toolkit"])}


def result_keys(recipe: Recipe, identity: Mapping[str, Any]) -> list[str | None]:
    """For every row what determines its model, as a hash: what the recipe says up to its stage, and no names."""
    keys: list[str | None] = [_key(_baseline_parts(recipe, identity))]
    for stage, table in zip(recipe.stages, identity["recipe"]["stages"], strict=True):
        said = {name: value for name, value in table.items() if name not in ("name", "from")}
        sources = [identity["sources"][name] for name in _sources_of(stage)]
        start = keys[stage.start]
        is_trained = trained_later(recipe.stages, stage) is not None  # which is promised, and checked here
        keys.append(_key([start, stage.number, said, sources, recipe.promises, is_trained]))
    return keys


def measuring_key(recipe: Recipe, identity: Mapping[str, Any]) -> str | None:
    """What determines how a row is measured, as a hash."""
    texts = [text_of_source(source, "data") for source in recipe.data.metrics]
    return _key([identity["recipe"].get("measure"), identity["recipe"].get("output"), recipe.data.batch_size, texts])


def _baseline_parts(recipe: Recipe, identity: Mapping[str, Any]) -> list[Any]:
    content = identity["recipe"]
    named = (
        f"model {recipe.model.source}",
        f"data {recipe.data.source}",
        *(f"code {name}" for name in recipe.data.code),
    )
    sources = [identity["sources"][name] for name in named]
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
    """The text behind every name of a recipe, as hashes."""
    found = {
        f"model {recipe.model.source}": text_of_source(recipe.model.source, "model"),
        f"data {recipe.data.source}": text_of_source(recipe.data.source, "data"),
        **{f"code {source}": text_of_source(source, "data") for source in recipe.data.code},
        **_weights([recipe.model]),
    }
    for stage in recipe.stages:
        for use in stage.uses:
            found[f"technique {use.plugin.name}"] = text_of(use.plugin.module)
            for source in _models(models_in(use.params)):
                found[f"model {source.source}"] = text_of_source(source.source, "model")
                found |= _weights([source])
    return found


def _sources_of(stage: Stage) -> Iterator[str]:
    for use in stage.uses:
        yield f"technique {use.plugin.name}"
        for source in _models(models_in(use.params)):
            yield f"model {source.source}"


def _models(placed: Iterable[tuple[str, Source]]) -> Iterator[Source]:
    return (source for _, source in placed)


def _weights(tables: Iterable[Source]) -> dict[str, str]:
    files = [table.weights for table in tables if table.weights is not None]
    return {f"weights {file}": hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in files}


def text_of_source(source: str, kind: Kind) -> str | None:
    """A hash of the Python text behind a source; built-in ones are part of the toolkit's own."""
    if ":" not in source:
        return "built in"
    target = resolve(source, kind)
    return text_of(sys.modules.get(getattr(target, "__module__", ""), sys.modules.get(source.rpartition(":")[0])))


def text_of(module: Any) -> str | None:
    """A hash of a module's file, of what it imported from beside it, and for a package of all its files."""
    file = getattr(module, "__file__", None)
    if not isinstance(module, ModuleType) or file is None or not Path(file).is_file():
        return None
    owners = dict.fromkeys(_distributions().get(module.__name__.partition(".")[0], []))
    digest = hashlib.sha256(json.dumps([version(owner) for owner in owners]).encode())
    for path in sorted(_files(Path(file), installed=bool(owners))):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


@cache
def _distributions() -> Mapping[str, list[str]]:
    return packages_distributions()  # reads the metadata of everything that is installed


def _files(file: Path, installed: bool) -> set[Path]:
    if file.name == "__init__.py":
        return set(file.parent.rglob("*.py"))
    if installed:
        return {file}
    imported = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    return {file, *(path for name in imported if name and (path := Path(name)).is_relative_to(file.parent))}


def data_fingerprint(data: Data) -> dict[str, str | None]:
    """A hash of every split: of all samples where they lie in memory, else of their number and some of them."""
    with undisturbed():
        return {name: _split_fingerprint(data.split(name)) for name in SPLITS if getattr(data, name) is not None}


def _split_fingerprint(split: Split) -> str | None:
    held = in_memory(split)
    digest = hashlib.sha256(str(split_length(split)).encode())
    samples: Any = held
    if not isinstance(held, tuple):
        torch.manual_seed(0)  # transforms may draw at random
        count = split_length(split)
        samples = [held[number * count // PROBED] for number in range(min(PROBED, count))]
    leaves = tree_leaves(samples)
    for leaf in leaves:
        digest.update(_bytes(leaf))
    return digest.hexdigest()


def _bytes(leaf: Any) -> bytes:
    if isinstance(leaf, Tensor):
        plain = leaf.detach().cpu().contiguous()
        return f"{plain.dtype}{tuple(plain.shape)}".encode() + plain.flatten().view(torch.uint8).numpy().tobytes()
    return repr(leaf).encode()
