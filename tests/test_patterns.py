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
    assert patterns.unmatched(NAMES, ["conv*", "fc"]) == ""
    assert patterns.unmatched(NAMES, ["conv*", "cnv1"]) == "no layer matches 'cnv1'; known: conv1, conv2"
    assert (
        patterns.unmatched(NAMES, ["zzz"], what="tensor") == "no tensor matches 'zzz'; known: conv1, conv2, fc, fc.out"
    )
    assert patterns.unmatched(NAMES, ["zzz"], shown=["fc"]) == "no layer matches 'zzz'; known: fc"
    many = [f"layer{number}" for number in range(20)]
    assert patterns.unmatched(many, ["zzz"]).endswith("known: " + ", ".join(many[:10]))


def test_a_pattern_that_must_match_and_does_not_is_refused_with_the_same_sentence():
    patterns.require_match(NAMES, ["conv*", "fc"])
    patterns.require_match(NAMES, [])
    with pytest.raises(TechniqueError, match=r"^no prunable layer matches 'cnv1'; known: conv1, conv2$"):
        patterns.require_match(NAMES, ["fc", "cnv1"], what="prunable layer")
    with pytest.raises(TechniqueError, match=r"^no layer matches 'cnv1'; known: fc$"):
        patterns.require_match(NAMES, ["cnv1"], shown=["fc"])


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: patterns.match("fc1", ["c"]), "names"),
        (lambda: patterns.match(["fc1"], "fc*"), "patterns"),
        (lambda: patterns.unmatched("fc1", []), "names"),
        (lambda: patterns.unmatched(["fc1"], "fc*"), "patterns"),
        (lambda: patterns.require_match(["fc1"], "fc*"), "patterns"),
        (lambda: patterns.most_exact("fc1", {"c": 1}, "overrides"), "names"),
    ],
)
def test_a_string_is_not_a_list_of_its_characters(call, argument):
    with pytest.raises(TypeError, match=rf"^{argument} must be a list of strings, not the string '(fc1|fc\*)'"):
        call()


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
    with pytest.raises(TechniqueError, match=r"^'\*c' and 'f\*' in bits disagree about 'fc'; make one more exact$"):
        patterns.most_exact(["fc"], {"f*": 4, "*c": 5}, "bits")


def test_each_reason_is_told_once_with_the_first_of_its_layers():
    reasons = {f"conv{number}": "excluded" for number in range(5)} | {"fc": "they are outputs of the network"}
    assert patterns.reasons_text(reasons) == (
        "conv0, conv1, conv2 and 2 more: excluded; fc: they are outputs of the network"
    )
    assert patterns.reasons_text({"a": "excluded", "b": "excluded"}) == "a, b: excluded"
    assert patterns.reasons_text({}) == ""
