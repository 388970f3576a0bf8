import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.logging.screens import terminal
from transformerlm.logging.screen import can_style, cells, printable, width, wrap

ANY_TEXT = st.text(alphabet=st.one_of(st.characters(), st.sampled_from(" \n\t\x1b\r字ö🙂")), max_size=120)


@given(ANY_TEXT, st.integers(2, 60))
def test_wrapped_lines_fit_and_hold_all_that_is_no_space(text, columns):
    shown = printable(text)
    lines = list(wrap(shown, columns))
    assert all(cells(line) <= columns for line in lines)
    assert "".join("".join(lines).split()) == "".join(shown.split())
    assert len(lines) > shown.count("\n")


def test_lines_are_broken_at_spaces_and_kept_where_they_fit():
    assert list(wrap("the cat sat\non a mat", 8)) == ["the cat", "sat", "on a mat"]
    assert list(wrap("unbreakable", 4)) == ["unbr", "eaka", "ble"]
    assert list(wrap("字字字", 4)) == ["字字", "字"]
    assert list(wrap("    indented", 40)) == ["    indented"]


@given(ANY_TEXT, st.sampled_from(["utf-8", "ascii", "latin-1"]))
def test_nothing_printable_is_an_order_to_the_terminal(text, encoding):
    shown = printable(text, encoding)
    assert all(
        character == "\n" or character.isprintable() or character in "\u200c\u200d" for character in shown
    )
    shown.encode(encoding)


def test_orders_are_shown_as_what_they_are():
    assert printable("a\x1b[2Jb\u202e") == "a\\x1b[2Jb\\u202e"
    assert printable("fünf", "ascii") == "f\\xfcnf"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"TERM": "xterm"}, True),
        ({"TERM": "xterm", "NO_COLOR": ""}, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False),
        ({"TERM": "dumb"}, False),
        ({}, False),
    ],
)
def test_styles_are_for_terminals_that_know_them_and_people_who_want_them(environment, expected):
    with terminal(80) as shown:
        assert can_style(shown.stream, environment) is expected
    with Path(os.devnull).open("w") as file:
        assert not can_style(file, environment)
    assert not can_style(None, environment)


def test_the_width_is_that_of_now(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    with terminal(60) as shown:
        assert width(shown.stream) == 60
        shown.resize(40)
        assert width(shown.stream) == 40
        shown.resize(0)  # of a terminal that does not know it
        assert width(shown.stream) == 80
    monkeypatch.setenv("COLUMNS", "123")
    with Path(os.devnull).open("w") as file:
        assert width(file) == 123
