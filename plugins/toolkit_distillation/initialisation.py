"""Initialisation: a student begins with its teacher's tensors where name and shape agree.

As in Sanh et al., "DistilBERT, a distilled version of BERT", 2019, whose student is made of the teacher's layers.
"""

from __future__ import annotations

from torch import Tensor, nn

import toolkit
from toolkit import masks


def copy_tensors(student: nn.Module, teacher: nn.Module) -> toolkit.Note:
    """Copy the teacher's parameters and buffers into the student's of the same name, shape and dtype, in place.

    A masked weight of the teacher is copied as its layers see it; the mask stays behind.

    Raises:
        TechniqueError: none of them agree.
    """
    theirs = {**teacher.state_dict(), **masks.folded(teacher).state_dict()}
    ours = student.state_dict()
    reasons = {name: _why_not(tensor, theirs.get(name)) for name, tensor in ours.items()}
    copied = [name for name, reason in reasons.items() if not reason]
    if not copied:
        shown = "; ".join(f"'{name}' {reason}" for name, reason in list(reasons.items())[:6])
        raise toolkit.TechniqueError(f"initialize finds no tensor of the student in the teacher: {shown}")
    for name in copied:
        ours[name].copy_(theirs[name])
    rows = [{"tensor": name, "shape": _shape(ours[name]), "kept": reason or "no"} for name, reason in reasons.items()]
    values = sum(ours[name].numel() for name in copied) / sum(tensor.numel() for tensor in ours.values())
    text = f"{len(copied)} of {len(ours)} tensors, {values:.1%} of the values, began as the teacher's"
    return toolkit.Note(text, rows)


def _why_not(ours: Tensor, theirs: Tensor | None) -> str:
    if theirs is None:
        return "is not in the teacher"
    if ours.shape != theirs.shape:
        return f"is {_shape(ours)} and in the teacher {_shape(theirs)}"
    return "" if ours.dtype == theirs.dtype else f"is {ours.dtype} and in the teacher {theirs.dtype}"


def _shape(tensor: Tensor) -> str:
    return f"({', '.join(map(str, tensor.shape))})"
