"""Texts are shown in errors cut short, at no cost where they are large."""

from brein.texts import shown


class Key(str):
    compared = 0

    def __lt__(self, other):
        Key.compared += 1
        return str.__lt__(self, other)


def test_of_a_large_object_a_few_keys_are_shown_and_no_others_looked_at():
    assert shown({Key(number): 1 for number in range(1000)}).endswith(", ...}")
    assert Key.compared < 20


def test_what_is_deep_or_long_is_cut():
    nested = "a" * 1000
    for _ in range(50):
        nested = [nested] * 50
    assert len(shown(nested)) < 1000
    assert len(shown("a" * 10**6)) < 300
