"""The contract of techniques, for channels that go at once, and gradually."""

from typing import ClassVar

from toolkit.testing import TechniqueContract


class TestChannels(TechniqueContract):
    technique = "channels"
    params: ClassVar[dict] = {"amount": 0.3, "round_to": 1}


class TestChannelsInSteps(TechniqueContract):
    technique = "channels"
    params: ClassVar[dict] = {"amount": 0.4, "round_to": 1, "steps": 2, "criterion": "taylor"}
