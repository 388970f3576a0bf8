"""What a person sees: real pseudo-terminals of several widths."""

import contextlib
import io
import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tqdm import tqdm

from tests.logging.screens import screen, terminal
from transformerlm.logging import PrettyConsole, names
from transformerlm.logging.pretty import record_lines
from transformerlm.logging.screen import cells

STEP = {
    names.LOSS: 3.89669,
    names.BITS_PER_BYTE: 2.05553,
    names.LR: 0.00993863,
    names.GRAD_L2_NORM: 0.552586,
    names.TOKENS: 102400,
    names.TOKENS_PER_SECOND: 73426.3,
    names.MFU: 0.21,
    names.SECONDS_REMAINING: 725.0,
}
VALIDATION = {names.VAL_LOSS: 3.91, names.VAL_PERPLEXITY: 49.9, names.VAL_BITS_PER_BYTE: 2.063}
SAMPLE = {
    names.PROMPT: "def",
    names.OUTPUT: " block(self):\n    " + "return self.block " * 4 + "\n",
    "params.p": 0.9,
}


@pytest.fixture(autouse=True)
def ordinary_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("NO_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)


def shown(columns, *records, step=500):
    with terminal(columns) as there, PrettyConsole(there.stream) as logger:
        for record in records:
            logger.log(record, step)
    return there.text


def test_a_step_and_a_validation_in_80_columns():
    assert screen(shown(80, STEP, VALIDATION), 80) == [
        "step    500  loss 3.8967   2.056 bits/byte     73,426 tokens/s   12m05s left",
        "validation   loss 3.9100   2.063 bits/byte  perplexity 49.9",
        "",
    ]


def test_corpora_of_a_mixture_stand_below_their_validation():
    mixed = {
        names.of_corpus(names.VAL_BITS_PER_BYTE, name): 1.5 + n for n, name in enumerate(["a", "b" * 30])
    }
    assert screen(shown(80, VALIDATION | mixed), 80)[1:] == [f"  a 1.500  {'b' * 30} 2.500", ""]
    assert all(cells(line) <= 30 for line in record_lines(VALIDATION | mixed, 5, 30))


def test_in_60_and_in_40_columns_labels_are_shorter():
    assert screen(shown(60, STEP, VALIDATION), 60) == [
        "   500  loss 3.8967   2.056 bits/B  73.4k/s   12m05s",
        " valid  loss 3.9100   2.063 bits/B",
        "",
    ]
    assert screen(shown(40, STEP, VALIDATION), 40) == [
        "  500 3.8967 2.056 b/B 73.4k/s 12m05s",
        "valid 3.9100 2.063 b/B",
        "",
    ]


def test_in_200_columns_there_is_room_for_more():
    (line, _) = screen(shown(200, STEP), 200)
    assert line.endswith("12m05s left  lr 9.94e-03  gradient  0.553  utilisation  21%")


def test_a_sample_is_set_apart_and_wrapped():
    assert screen(shown(40, SAMPLE), 40) == [
        'sample at step 500, begun with "def"',
        "  def block(self):",
        "      return self.block return",
        "  self.block return self.block return",
        "  self.block",
        "",
    ]


def test_a_window_that_changes_is_asked_again():
    with terminal(80) as there, PrettyConsole(there.stream) as logger:
        logger.log(STEP, 1)
        there.resize(40)
        logger.log(STEP, 2)
    wide, narrow, _ = screen(there.text, 80)
    assert wide.startswith("step      1  loss")
    assert narrow == "    2 3.8967 2.056 b/B 73.4k/s 12m05s"


NUMBERS = st.floats(allow_nan=True, allow_infinity=True)
RECORDS = st.one_of(
    st.fixed_dictionaries(
        dict.fromkeys((names.LOSS, names.TOKENS_PER_SECOND, names.SECONDS_REMAINING), NUMBERS)
    ),
    st.fixed_dictionaries({names.VAL_LOSS: NUMBERS, names.VAL_BITS_PER_BYTE: NUMBERS}),
    st.fixed_dictionaries({names.PROMPT: st.text(max_size=60), names.OUTPUT: st.text(max_size=200)}),
    st.dictionaries(st.sampled_from(["metrics.num_threads", "metrics.other"]), NUMBERS, min_size=1),
)


@given(RECORDS, st.none() | st.integers(0, 10**9), st.integers(30, 250))
def test_no_line_is_wider_than_the_window(record, step, columns):
    lines = list(record_lines(record, step, columns))
    assert lines
    assert all(cells(line) <= columns for line in lines)


def test_validations_and_headings_of_samples_are_bold_unless_the_user_minds(monkeypatch):
    styled = shown(80, STEP, VALIDATION, SAMPLE)
    first, validation, heading, *_ = styled.splitlines()
    assert "\x1b" not in first
    assert validation.startswith("\x1b[1mvalidation")
    assert validation.endswith("\x1b[0m")
    assert heading.startswith("\x1b[1msample")
    monkeypatch.setenv("NO_COLOR", "1")
    plain = shown(80, STEP, VALIDATION, SAMPLE)
    assert "\x1b" not in plain
    assert screen(plain, 80) == screen(styled, 80)
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert shown(80, STEP, VALIDATION, SAMPLE) == plain


def test_a_model_cannot_give_orders_to_the_terminal():
    assert "\x1b" not in shown(
        80, {names.PROMPT: "\x1b]0;title\x07", names.OUTPUT: "\r\x1b[2J\x9b31m"}
    ).replace("\x1b[1m", "").replace("\x1b[0m", "")


def test_a_terminal_without_unicode_gets_what_it_can_show():
    with terminal(60, encoding="ascii") as there, PrettyConsole(there.stream) as logger:
        logger.log({names.PROMPT: "Straße", names.OUTPUT: " 字"}, 1)
    assert screen(there.text, 60)[1] == "  Stra\\xdfe \\u5b57"


def test_a_bar_on_the_same_terminal_steps_aside():
    with (
        terminal(60) as there,
        contextlib.redirect_stdout(there.stream),
        contextlib.redirect_stderr(there.stream),
        tqdm(total=10, file=sys.stderr, dynamic_ncols=True, desc="training") as bar,
    ):
        for step in range(1, 4):
            PrettyConsole().log(STEP, step)
            bar.update(3)
        bar.refresh()
    rows = screen(there.text, 60)
    assert [row[:16] for row in rows[:3]] == ["     1  loss 3.8", "     2  loss 3.8", "     3  loss 3.8"]
    assert rows[3].startswith("training:  90%")


def test_forced_on_a_pipe_it_has_no_styles():
    pipe = io.StringIO()
    PrettyConsole(pipe).log(VALIDATION, 3)
    assert pipe.getvalue() == "validation   loss 3.9100   2.063 bits/byte  perplexity 49.9\n"
    with pytest.raises(ValueError):
        json.loads(pipe.getvalue())
