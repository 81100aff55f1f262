"""Initialisation: a student starts with its teacher's tensors where name and shape agree.

As in Sanh et al., "DistilBERT, a distilled version of BERT", 2019, whose student consists of every second layer of its
teacher; `layers` maps the layers whose names differ.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

import toolkit
from toolkit import masks
from toolkit_distillation.features import missing, paths_in


def copy_tensors(student: nn.Module, teacher: nn.Module, layers: Mapping[str, str] | None = None) -> toolkit.Note:
    """Copy the teacher's parameters and buffers into the student's of the same name, shape and dtype, in place.

    A masked weight of the teacher is copied as its layers see it, without the mask.

    Args:
        student: changed in place.
        teacher: left as it is.
        layers: the path of the teacher's module by that of the student's, for modules whose paths differ.

    Raises:
        TechniqueError: no tensors agree, or a path in `layers` does not exist.
    """
    layers = layers or {}
    problems = missing(layers.keys(), paths_in(student), "the student")
    problems += missing(layers.values(), paths_in(teacher), "the teacher")
    if problems:
        raise toolkit.TechniqueError("; ".join(problems))
    theirs = {**teacher.state_dict(), **masks.folded(teacher).state_dict()}
    ours = student.state_dict()
    names = {name: _in_teacher(name, layers) for name in ours}
    reasons = {name: _why_not(tensor, theirs.get(names[name])) for name, tensor in ours.items()}
    copied = [name for name, reason in reasons.items() if not reason]
    if not copied:
        shown = "; ".join(f"'{name}' {reason}" for name, reason in list(reasons.items())[:6])
        raise toolkit.TechniqueError(f"initialize cannot copy any tensor of the student from the teacher: {shown}")
    for name in copied:
        ours[name].copy_(theirs[names[name]])
    rows = [
        {"tensor": name, "shape": _shape(ours[name]), "teacher's": "" if reason else names[name], "why not": reason}
        for name, reason in reasons.items()
    ]
    values = sum(ours[name].numel() for name in copied) / sum(tensor.numel() for tensor in ours.values())
    text = f"{len(copied)} of {len(ours)} tensors, {values:.1%} of the values, were copied from the teacher"
    return toolkit.Note(text, rows)


def _in_teacher(name: str, layers: Mapping[str, str]) -> str:
    """Return the teacher's name of a tensor, by the innermost of the mapped layers around it."""
    around = [path for path in layers if name.startswith(f"{path}.")]
    innermost = max(around, key=len, default="")
    return layers[innermost] + name[len(innermost) :] if innermost else name


def _why_not(ours: Tensor, theirs: Tensor | None) -> str:
    if theirs is None:
        return "is not in the teacher"
    if ours.shape != theirs.shape:
        return f"is {_shape(ours)}, but {_shape(theirs)} in the teacher"
    return "" if ours.dtype == theirs.dtype else f"is {ours.dtype}, but {theirs.dtype} in the teacher"


def _shape(tensor: Tensor) -> str:
    return f"({', '.join(map(str, tensor.shape))})"
