"""The classes of tiara's own sequences are those that its wheel says they are."""

import pytest
import torch
from installed import folder, missing, why_skipped
from tiara_dna import CLASSES, FILES, K, count_kmers, dna, features, network, pieces, records

pytestmark = [
    pytest.mark.precise,
    pytest.mark.real,
    pytest.mark.skipif(bool(missing("tiara")), reason=why_skipped("tiara")),
]


@pytest.mark.parametrize("name", FILES)
def test_every_fourth_record_has_the_class_that_tiara_gave_it(name):
    lines = (folder("tiara") / "test" / "test_data" / f"{name}_out.txt").read_text().splitlines()[1:]
    expected = {description: first for description, first, _ in (line.split("\t") for line in lines)}
    assert expected.keys() == {description for description, _ in records(name)}
    model = network().eval()
    for description, sequence in list(records(name))[::4]:
        with torch.inference_mode():
            assert _named(model(features(pieces(sequence, 5000))).mean(dim=0)) == expected[description], description


def _named(probabilities):
    """Their rule: the likeliest class beyond 0.65, else what the two kinds of prokaryotes are together."""
    share, place = probabilities.max(dim=0)
    if share > 0.65:
        return CLASSES[place]
    return "prokarya" if probabilities[[1, 3]].sum() > 0.65 else "unknown"


def test_kmers_are_counted_in_alphabetical_order_without_unknown_letters():
    counts = count_kmers("AAAAAACNTTTTTTT")
    assert counts.shape == (4**K,)
    assert {place: count for place, count in enumerate(counts) if count} == {0: 1, 1: 1, 4**K - 1: 2}


def test_no_record_is_in_two_splits():
    data = dna(bases=5000, of_each=30)
    splits = [{tuple(row.tolist()) for row in data.split(name)[0]} for name in ("train", "validation", "test")]
    assert all(splits)
    assert not splits[0] & splits[1]
    assert not splits[1] & splits[2]
