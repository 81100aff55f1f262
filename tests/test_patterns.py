"""Patterns of names: what they match, which one counts, and what is said of those that match nothing."""

import pytest

from toolkit import TechniqueError, patterns

NAMES = ["conv1", "conv2", "fc", "fc.out"]


@pytest.mark.parametrize(
    ("asked", "matches"),
    [(["fc"], True), (["conv?"], True), (["x", "*out"], True), (["conv"], False), (["FC"], False), ([], False)],
)
@pytest.mark.smoke
def test_a_thing_is_meant_if_a_pattern_matches_one_of_its_names(asked, matches):
    assert patterns.match(NAMES, asked) == matches


def test_of_a_pattern_that_matches_nothing_close_names_are_told():
    assert patterns.unmatched(["conv*", "fc"], NAMES) == ""
    assert patterns.unmatched(["conv*", "cnv1"], NAMES) == "no layer matches 'cnv1'; known: conv1, conv2"
    assert (
        patterns.unmatched(["zzz"], NAMES, what="tensor") == "no tensor matches 'zzz'; known: conv1, conv2, fc, fc.out"
    )
    assert patterns.unmatched(["zzz"], NAMES, shown=["fc"]) == "no layer matches 'zzz'; known: fc"
    many = [f"layer{number}" for number in range(20)]
    assert patterns.unmatched(["zzz"], many).endswith("known: " + ", ".join(many[:10]))


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"*": 1, "fc*": 2}, 2),
        ({"fc*": 2, "*": 1}, 2),
        ({"*": 1, "conv*": 3}, 1),
        ({"f*": 4, "*c": 4}, 4),
        ({"conv*": 3}, None),
        ({}, None),
    ],
)
def test_the_most_exact_pattern_counts_in_whatever_order(table, expected):
    assert patterns.most_exact(["fc"], table, "overrides") == expected


def test_a_thing_of_two_names_goes_by_the_more_exact_one():
    assert patterns.most_exact(["lstm.weight_hh_l0", "lstm"], {"lstm": 4, "*weight_hh*": 2}, "overrides") == 2


def test_equally_exact_patterns_that_disagree_are_refused():
    with pytest.raises(TechniqueError, match=r"^'\*c' and 'f\*' in bits disagree about 'fc': make one more exact$"):
        patterns.most_exact(["fc"], {"f*": 4, "*c": 5}, "bits")
