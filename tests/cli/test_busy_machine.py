"""On a busy machine a run's threads wait passively, unless the user has decided otherwise."""

import os
import sys

import psutil
import pytest

from toolkit.cli import busy_machine
from toolkit.cli.busy_machine import BUSY_PERCENT, SETTINGS, wait_passively_if_busy


@pytest.fixture
def decided(monkeypatch, capsys):
    """Decide on the first of two cores, which has this load, and return the policy and what was said."""

    def decided(percent, **environment):
        monkeypatch.setattr(busy_machine, "allowed_cores", lambda: [0])
        monkeypatch.delitem(sys.modules, "torch", raising=False)
        for name in SETTINGS:
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(psutil, "cpu_percent", lambda interval, percpu: [percent, 100.0 - percent])
        wait_passively_if_busy()
        policy = os.environ.pop("OMP_WAIT_POLICY", None)
        return policy, capsys.readouterr().err

    return decided


def test_a_busy_machine_gets_threads_that_sleep_and_a_line(decided):
    policy, said = decided(80.0)
    assert policy == "PASSIVE"
    assert said.startswith("other processes use 80 % of the cores: threads wait passively")
    assert said.count("\n") == 1


def test_a_quiet_one_and_a_user_s_setting_are_left_alone(decided):
    assert decided(BUSY_PERCENT - 1) == (None, "")
    assert decided(80.0, GOMP_SPINCOUNT="5") == (None, "")
    assert decided(80.0, OMP_WAIT_POLICY="ACTIVE") == ("ACTIVE", "")
