"""Explanations of the columns of the page's smaller tables, which appear when a reader points at a heading."""

from __future__ import annotations

from collections.abc import Mapping

COLUMN_MEANINGS: Mapping[str, str] = {
    "layer": "path of the layer in the model",
    "kind": "class of the layer, and the class that it stands for if it was replaced",
    "weights": "number of weights",
    "zeros": "fraction of the weights that are zero",
    "precision": "data type that stores the weights",
    "size": "bytes that the layer or the model needs in its file",
    "before": "bytes and data type of the layer of the same name in the baseline",
    "stage": "number of the row, and the stage that it shows",
    "value": "value after the stage",
    "change by the stage": "difference to the row that the stage started from",
    "step": "training step, counted from 1 in each training",
    "loss": "mean training loss since the previous point",
    "range": "largest absolute weight",
}
