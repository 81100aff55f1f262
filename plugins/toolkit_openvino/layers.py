"""What an IR file lists, examined before OpenVINO reads it."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

from toolkit import TechniqueError

OPSET = re.compile(r"opset\d{1,2}")


def check_layers(file: Path) -> None:
    """Refuse a file with other operations than OpenVINO's own, or with weights beyond the end of their file.

    Raises:
        TechniqueError: the file is not an IR, or lists something like that.
    """
    weights = file.with_suffix(".bin")
    size_bytes = weights.stat().st_size if weights.is_file() else 0
    for layer in _network(file).iter("layer"):
        name = layer.get("name", "")
        if not OPSET.fullmatch(layer.get("version", "")):
            what = f"the operation '{layer.get('type')}' of '{layer.get('version')}'"
            raise TechniqueError(f"{file.name}: layer '{name}' uses {what}, which is not OpenVINO's; do not open it")
        if layer.get("type") == "Const" and not _lies_within(layer.find("data"), size_bytes):
            raise TechniqueError(f"{file.name}: layer '{name}' reads beyond the end of {weights.name}; do not open it")


def _network(file: Path) -> ElementTree.Element:
    try:
        content = file.read_text(encoding="utf-8")
        if "<!" in content:  # definitions that a few bytes expand to gigabytes; OpenVINO writes none
            raise TechniqueError(f"{file.name} defines entities of XML, which OpenVINO does not write; do not open it")
        network = ElementTree.fromstring(content)
    except (ElementTree.ParseError, OSError, ValueError) as error:
        raise TechniqueError(f"{file.name} is not an IR of OpenVINO; export the model again") from error
    if network.tag != "net":
        raise TechniqueError(f"{file.name} is not an IR of OpenVINO; export the model again")
    return network


def _lies_within(data: ElementTree.Element | None, size_bytes: int) -> bool:
    if data is None:
        return False
    offset, length = data.get("offset", ""), data.get("size", "")
    return offset.isdecimal() and length.isdecimal() and int(offset) + int(length) <= size_bytes
