import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from transformerlm.infer.stopping import StopStrings

FEW = "ab☃"
"""Few characters, so that stop strings overlap, contain each other and nearly occur."""
TEXTS = st.text(FEW, max_size=30)
STOPS = st.lists(st.text(FEW, min_size=1, max_size=4), max_size=4)


def slow_end(text: str, stops) -> tuple[str, str | None]:
    """The definition: look at every beginning of the whole text; the first that ends in a stop string."""
    for end in range(len(text) + 1):
        for start in range(end):  # the longest first
            if text[start:end] in stops:
                return text[:start], text[start:end]
    return text, None


def in_pieces(text: str, cuts) -> list[str]:
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [text[start:end] for start, end in itertools.pairwise(places)]


@settings(deadline=None, max_examples=200)
@given(TEXTS, STOPS, st.lists(st.integers(0, 100), max_size=30))
def test_a_text_ends_before_the_first_stop_string_however_it_is_cut(text, stops, cuts):
    finder = StopStrings(stops)
    shown = "".join(finder.feed(piece) for piece in in_pieces(text, cuts))
    assert (shown + finder.flush(), finder.found) == slow_end(text, stops)
    assert finder.feed("more") == ("" if finder.found else "more")


@settings(deadline=None, max_examples=200)
@given(TEXTS, STOPS, st.lists(st.integers(0, 100), max_size=30))
def test_just_that_is_held_back_which_may_become_a_stop_string(text, stops, cuts):
    finder, fed, shown = StopStrings(stops), "", ""
    for piece in in_pieces(text, cuts):
        fed += piece
        shown += finder.feed(piece)
        if finder.found:
            return
        # Whatever may follow, the text goes on at least so far; and one character more could be lost.
        undecided = [
            start for start in range(len(fed)) if any(stop.startswith(fed[start:]) for stop in stops)
        ]
        assert shown == fed[: min(undecided, default=len(fed))]


def test_without_stop_strings_nothing_is_held():
    finder = StopStrings([])
    assert (finder.feed("abc"), finder.flush(), finder.found) == ("abc", "", None)
