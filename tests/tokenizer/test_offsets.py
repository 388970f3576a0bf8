import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from transformerlm.errors import DataError
from transformerlm.tokenizer.offsets import character_offsets

texts = st.text() | st.text("aé中👍\u0301\n", max_size=30)
assigned = st.characters(exclude_categories=["Cs", "Cn"])


def obvious_offsets(text, lengths):
    """Which character each byte belongs to, and for each token the first and the last of these."""
    owners = [index for index, character in enumerate(text) for _ in character.encode()]
    offsets, position = [], 0
    for length in lengths:
        touched = owners[position : position + length]
        offsets.append([touched[0], touched[-1] + 1])
        position += length
    return offsets


def lengths_of(tokenizer, ids):
    return np.array([len(tokenizer.vocab[token_id]) for token_id in ids], np.uint8)


@given(text=texts, data=st.data())
def test_equals_the_obvious_way_wherever_tokens_end(text, data):
    num_bytes = len(text.encode())
    cuts = sorted(data.draw(st.sets(st.integers(1, num_bytes - 1)))) if num_bytes > 1 else []
    lengths = np.diff([0, *cuts, num_bytes]) if num_bytes else np.array([], np.int64)
    offsets = character_offsets(text, lengths)
    assert offsets.dtype == np.int64
    assert offsets.shape == (len(lengths), 2)
    assert offsets.tolist() == obvious_offsets(text, lengths)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint64, np.int64])
@pytest.mark.parametrize(
    ("text", "lengths", "expected"),
    [
        ("", [], []),
        ("ab c", [2, 2], [[0, 2], [2, 4]]),
        ("é!", [1, 2], [[0, 1], [0, 2]]),
        ("👍", [1, 1, 2], [[0, 1], [0, 1], [0, 1]]),
        ("a中b", [2, 2, 1], [[0, 2], [1, 2], [2, 3]]),
    ],
)
def test_examples(text, lengths, expected, dtype):
    offsets = character_offsets(text, np.array(lengths, dtype))
    assert offsets.dtype == np.int64
    assert offsets.tolist() == expected


@given(
    text=st.text(assigned)
    | st.lists(st.sampled_from([" é", "<|endoftext|>", "👍", "\n\n", " a"])).map("".join)
)
def test_equals_huggingface_where_it_does_not_trim(gpt2, gpt2_huggingface, text):
    # Without a post-processor, as here, and with ByteLevel(trim_offsets=False) nothing is trimmed.
    encoding = gpt2_huggingface.encode(text)
    offsets = character_offsets(text, lengths_of(gpt2, encoding.ids))
    assert [tuple(pair) for pair in offsets.tolist()] == encoding.offsets


def test_huggingface_may_trim_white_space(gpt2, gpt2_huggingface):
    text = "a word "
    trimming = tokenizers.Tokenizer.from_str(gpt2_huggingface.to_str())
    trimming.post_processor = tokenizers.processors.ByteLevel(trim_offsets=True)
    ids = gpt2.encode(text)
    assert trimming.encode(text).offsets == [(0, 1), (2, 6), (7, 7)]
    assert character_offsets(text, lengths_of(gpt2, ids)).tolist() == [[0, 1], [1, 6], [6, 7]]


def test_the_text_at_the_offsets_of_ascii_is_the_token(gpt2, shared_data):
    text = (shared_data / "tinyshakespeare.txt").read_text()[:50_000]
    ids = gpt2.encode(text)
    for token_id, (start, end) in zip(ids, character_offsets(text, lengths_of(gpt2, ids)), strict=True):
        assert text[start:end].encode() == gpt2.vocab[token_id]


def test_half_a_surrogate_pair_is_refused():
    with pytest.raises(DataError, match="half of a surrogate pair"):
        character_offsets("\ud83d", np.array([3]))


@pytest.mark.parametrize(("text", "lengths"), [("ab", [1]), ("é", [1]), ("", [1]), ("ab", [1, 0, 1])])
def test_lengths_that_are_not_of_the_text_are_noticed(text, lengths):
    with pytest.raises(AssertionError):
        character_offsets(text, np.array(lengths))
