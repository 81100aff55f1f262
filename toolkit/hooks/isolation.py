"""What the code of a plugin must not change around it: torch's global settings, the working directory, stdout.

A changed setting is restored and is an error, because the numbers of later stages would depend on it. A print does not
end the run: it goes to stderr, because stdout is the command's result, and into the run's log.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TextIO

import torch

from toolkit.errors import TechniqueError

printed = logging.getLogger("toolkit.printed")
MAX_KEPT_CHARACTERS = 1000


class Setting(NamedTuple):
    """A global setting: its name in plain words, how to read it and how to restore it."""

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], Any]
    remedy: str = "restore it before the hook returns"


def _restore_device(device: torch.device) -> None:
    # Any default device, even the CPU, makes every call of torch slower: for the CPU, set none.
    torch.set_default_device(None if device.type == "cpu" else device)


def _determinism() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def _restore_determinism(state: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(state[0], warn_only=state[1])


def _cudnn() -> tuple[bool, bool, bool]:
    return torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic


def _restore_cudnn(state: tuple[bool, bool, bool]) -> None:
    torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = state


SETTINGS = (
    Setting("the number of threads", torch.get_num_threads, torch.set_num_threads),
    Setting("the default dtype", torch.get_default_dtype, torch.set_default_dtype),
    Setting("the default device", torch.get_default_device, _restore_device),
    Setting("whether gradients are recorded", torch.is_grad_enabled, torch.set_grad_enabled),
    Setting("the deterministic algorithms", _determinism, _restore_determinism),
    Setting("the precision of matrix products", torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    Setting("the settings of cuDNN", _cudnn, _restore_cudnn),
    Setting("the detection of anomalies", torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    Setting("the working directory", os.getcwd, os.chdir),
)
SEED = "draw from torch's generator, which the runner seeds for every stage, or from a torch.Generator of your own"


@contextmanager
def unchanged(who: str, when: str) -> Iterator[None]:
    """Run a plugin's code inside, and restore what it changes.

    Args:
        who: names the plugin in errors.
        when: names the moment, such as `in optimize`.

    Raises:
        TechniqueError: a global setting has changed; it is restored by then.
    """
    before = [setting.read() for setting in SETTINGS]
    seed, generator = torch.initial_seed(), torch.get_rng_state()
    heard = _Printed(sys.stderr)
    try:
        with contextlib.redirect_stdout(heard):
            yield
    finally:
        changes = [change for was, setting in zip(before, SETTINGS, strict=True) if (change := _restore(setting, was))]
        if torch.initial_seed() != seed:
            torch.set_rng_state(generator)
            changes.append(("the seed of torch's generator", SEED))
        if heard.text:
            printed.warning("%s printed %s; use a Note or a log instead: %s", who, when, heard.text.strip())
    if changes:
        setting_change, remedy = changes[0]
        raise TechniqueError(f"{who} changed {setting_change} {when}; {remedy}")


def _restore(setting: Setting, before: Any) -> tuple[str, str] | None:
    after = setting.read()
    if after == before:
        return None
    setting.write(before)
    return f"{setting.name} from {_shown(before)} to {_shown(after)}", setting.remedy


def _shown(value: Any) -> str:
    return " and ".join(map(_shown, value)) if isinstance(value, tuple) else str(value).removeprefix("torch.")


class _Printed(io.TextIOBase):
    """Passes on what is written, so that a debugger's prompt is visible, and keeps the beginning of it."""

    def __init__(self, target: TextIO | Any) -> None:
        self._target, self.text = target, ""

    def write(self, text: str) -> int:
        if len(self.text) < MAX_KEPT_CHARACTERS:
            self.text += text
        self._target.write(text)
        return len(text)

    def flush(self) -> None:
        self._target.flush()
