import math

import pytest

from transformerlm.report.text import count, cut, duration, num_bytes, token_text, visible


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.04, "0.0 s"),
        (9.9, "9.9 s"),
        (9.96, "10 s"),
        (59.6, "1 min"),
        (725, "12 min 5 s"),
        (3600, "1 h"),
        (12_000, "3 h 20 min"),
        (187_200, "2 d 4 h"),
        (math.nan, "–"),
    ],
)
def test_durations(seconds, expected):
    assert duration(seconds) == expected


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (0, "0"),
        (99_999, "99,999"),
        (237_888, "238 k"),
        (999_600, "1,000 k"),
        (1.9e6, "1.9 M"),
        (math.inf, "–"),
    ],
)
def test_counts(number, expected):
    assert count(number) == expected


def test_bytes():
    assert [num_bytes(1234), num_bytes(1_059_624)] == ["1,234 bytes", "1.06 MB"]


def test_control_characters_are_shown_and_other_text_stays():
    assert visible("a\x00b\x1b[0m\ud800\x9f\n\tא‍👩‍👩") == "a␀b␛[0m\ufffd\ufffd\n\tא‍👩‍👩"
    assert token_text(b" the\n\xff") == "␣the⏎\\xff"
    assert [cut("abc", 3), cut("abcd", 3)] == ["abc", "ab…"]
