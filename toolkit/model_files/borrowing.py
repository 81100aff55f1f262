"""Parts that a file borrows from a source: removed before a model is pickled, and built again when it is opened."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.utils import parametrize
from torch.utils._pytree import tree_leaves

from toolkit.errors import ArtifactError, described
from toolkit.model_files.grants import Builder, stored_source
from toolkit.model_files.origins import MODULE_ATTRIBUTES, Place, is_unnamed, origin_of, remember
from toolkit.model_files.safe.structure import METHODS
from toolkit.seeding import preserve_generators


@dataclass(frozen=True)
class Borrowed:
    """The parts of a skeleton that come from a model that a source builds.

    Attributes:
        source: as `stored_source` writes it.
        args: its keyword arguments, values of JSON.
        places: by the place in the skeleton, the place in what the source builds.
    """

    source: str
    args: dict[str, Any]
    places: dict[str, str]

    @classmethod
    def of(cls, value: Any) -> Borrowed | None:
        """Return the parts that a file describes, None if it describes none; an `ArtifactError` if it is malformed."""
        if value is None:
            return None
        keys = {"source": str, "args": dict, "places": dict}
        if not isinstance(value, dict) or value.keys() != keys.keys():
            raise ArtifactError("its source is described in an unknown form")
        texts = [*value["places"], *value["places"].values()] if isinstance(value["places"], dict) else [None]
        if not all(isinstance(value[key], kind) for key, kind in keys.items()) or not all(
            isinstance(text, str) for text in texts
        ):
            raise ArtifactError("its source is described in an unknown form")
        return cls(**value)


def take_out(plain: nn.Module) -> Borrowed | None:
    """Take the parts out of a model that no file can name, in place; None if it has none of a known origin."""
    origin = origin_of(plain)
    if origin is None:
        return None
    build, places = origin
    for place in places:
        module = plain.get_submodule(place.path)
        if place.attribute:
            vars(module)[place.attribute] = None
        else:
            _set_class(module, next(kind for kind in type(module).__mro__ if _has_name(kind)))
    texts = {str(place): str(original) for place, original in places.items()}
    return Borrowed(stored_source(build.source), json.loads(build.args), texts)


def put_back(model: nn.Module, borrowed: Borrowed, builder: Builder) -> None:
    """Build the network again, and put its parts into a model, in place; random generators stay as they are."""
    with preserve_generators():
        try:
            built = builder.call(**borrowed.args)
        except (Exception, SystemExit) as error:
            raise ArtifactError(f"'{borrowed.source}', which builds it, raised {described(error)}") from error
    if not isinstance(built, nn.Module):
        raise ArtifactError(f"'{borrowed.source}', which builds it, must return an nn.Module")
    remember(built, builder.source, borrowed.args)
    for place, original in borrowed.places.items():
        _put(model, Place.parse(place), built, Place.parse(original), borrowed.source)


def _put(model: nn.Module, place: Place, built: nn.Module, original: Place, source: str) -> None:
    module, other = _module(model, place), _module(built, original)
    if module is None or other is None or bool(place.attribute) != bool(original.attribute):
        raise _changed(source, original)
    if place.attribute:
        value = vars(other).get(original.attribute)
        is_state = place.attribute in MODULE_ATTRIBUTES or place.attribute in METHODS
        if is_state or not any(map(is_unnamed, tree_leaves(value))):
            raise _changed(source, original)
        vars(module)[place.attribute] = value
    else:
        kind = parametrize.type_before_parametrizations(other)
        if not (is_unnamed(kind) and issubclass(kind, type(module))):
            raise _changed(source, original)
        module.__class__ = kind


def _changed(source: str, place: Place) -> ArtifactError:
    where = f"'{place.attribute}' of '{place.path}'" if place.attribute else f"the class of '{place.path}'"
    return ArtifactError(f"what '{source}' builds lacks {where}; open the file with the source that the model is from")


def _module(model: nn.Module, place: Place) -> nn.Module | None:
    try:
        return model.get_submodule(place.path)
    except AttributeError:
        return None


def _has_name(kind: type) -> bool:
    return not is_unnamed(kind) and kind.__module__ != parametrize.__name__


def _set_class(module: nn.Module, kind: type) -> None:
    # A parametrized module has a class of its own, above the one that a file names.
    module.__class__ = type(kind.__name__, (kind,), {}) if parametrize.is_parametrized(module) else kind
