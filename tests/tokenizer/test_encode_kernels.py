"""Encoding on the kernels against the plain path: window ends, long words, threads, types of ids."""

import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transformerlm.errors import DataError
from transformerlm.kernels.bpe_layout import SHORT_MERGE, WINDOW
from transformerlm.tokenizer import Pretokenizer, Tokenizer, encode_kernels, train_bpe_from_texts
from transformerlm.tokenizer import tokenizer as tokenizer_module
from transformerlm.tokenizer.reference import encode_slowly

SPECIAL = ["<|e|>", "<|e|><|e|>", " s", "é<", "\n"]


pytestmark = pytest.mark.parametrize("kernels", ["always"], indirect=True, scope="session")


@pytest.fixture(scope="module")
def small(kernels):
    text = "low lower lowest it's we'll naïve 中文 12 1234 !!! ??\n\n  " * 20
    return Tokenizer(*train_bpe_from_texts([text], 330, SPECIAL), SPECIAL)


def plainly(tokenizer, text, special_tokens=None):
    pretokenizer = tokenizer.pretokenizer
    if special_tokens is not None:
        pretokenizer = Pretokenizer(special_tokens=special_tokens)
    return tokenizer._python_encoder.encode(text, pretokenizer).tolist()


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=100))
def test_any_text(gpt2, text):
    assert gpt2.encode(text) == plainly(gpt2, text)


@settings(max_examples=150, deadline=None)
@given(text=st.text(alphabet="lowers <|e>é\n'tv中1!\u3000\x85", max_size=60))
def test_special_tokens_and_contractions(small, text):
    assert small.encode(text) == plainly(small, text)
    assert small.encode(text, allowed_special="none") == plainly(small, text, [])
    some = ["<|e|>", "\n"]
    assert small.encode(text, allowed_special=some) == plainly(small, text, some)


@pytest.mark.parametrize("shift", [-8, -1, 0, 1, 7])
def test_a_window_s_end_changes_nothing(gpt2, hard_texts, shift):
    for text in hard_texts:
        filler = "word " * ((WINDOW + shift - len(text.encode()) // 2) // 5)
        for whole in (filler + text + " more", filler + "x" * (shift % 5) + text):
            assert gpt2.encode(whole) == plainly(gpt2, whole)


@pytest.mark.parametrize("length", [15, 16, 64, 65, 1025, WINDOW + 7])
def test_words_of_every_length(gpt2, length):
    letters = "".join(random.Random(length).choices("abcdeé", k=length))
    for text in ("a" * length, letters, " " * length, "\u3000" * length, "!" * length, "5" * length):
        for whole in (text, f"{text}<|endoftext|>{text}", f" {text} x", f"x{text}'s"):
            assert gpt2.encode(whole) == plainly(gpt2, whole)


def test_many_long_words(gpt2):
    texts = [chr(97 + number % 26) * (WINDOW // 2 + 400 * number) for number in range(30)]
    text = " ".join(texts)
    assert gpt2.encode(text) == plainly(gpt2, text)


def test_ids_of_both_widths(small):
    vocab = dict(small.vocab)
    while len(vocab) <= 1 << 16:
        vocab[len(vocab)] = b"token number %d" % len(vocab)
    wide = Tokenizer(vocab, small.merges, [*SPECIAL, "token number 65000"])
    text = "lowest token number 65000 <|e|> naïve" * 30
    assert wide.encode_array(text).dtype == np.uint32
    assert 65000 in wide.encode(text)
    assert wide.encode(text) == plainly(wide, text)
    assert wide.decode(wide.encode_array(text)) == text


def test_merge_lists_that_no_corpus_gives():
    vocab = {byte: bytes([byte]) for byte in range(256)}
    vocab |= {256: b"ab", 257: b"aba", 258: b"abab"}
    # "aba" is looked for before there is any "ab" to make it of: once there is one, before the next "ab".
    tokenizer = Tokenizer(vocab, [(b"ab", b"a"), (b"a", b"b")])
    assert tokenizer.encode("abab") == [257, ord("b")]
    assert "_kernel_encoder" in vars(tokenizer)


@pytest.mark.parametrize("seed", range(20))
def test_merges_in_any_order_and_of_several_ways_to_one_token(seed):
    draw = random.Random(seed)
    tokens = [bytes([byte]) for byte in range(256)]
    letters = [b"a", b"b", b"c"]
    while len(tokens) < 300:
        token = b"".join(draw.choices(letters, k=2))
        if token not in tokens:
            tokens.append(token)
            letters.append(token)
    known = set(tokens)
    merges = [
        (token[:end], token[end:])
        for token in tokens[256:]
        for end in range(1, len(token))
        if {token[:end], token[end:]} <= known
    ]
    draw.shuffle(merges)
    tokenizer = Tokenizer(dict(enumerate(tokens)), merges[: draw.randrange(1, len(merges))])
    for length in (5, 30, SHORT_MERGE, SHORT_MERGE + 40):
        text = "".join(draw.choices("abc", k=length))
        encoded = [tokenizer.vocab[token_id] for token_id in tokenizer.encode(text)]
        assert tuple(encoded) == encode_slowly(text, tokenizer.merges)


@pytest.mark.parametrize("length", [1, 2, 15, 16, 70, WINDOW + 7])
def test_whole_words_that_no_merge_makes(length):
    vocab = {byte: bytes([byte]) for byte in range(256)}
    vocab |= {256: b"bb", 257: b"a" * length if length > 1 else b"aa", 258: " naïve".encode()}
    tokenizer = Tokenizer(vocab, [(b"b", b"b")], ["<|e|>"], whole_words=True)
    text = f"{'a' * length}<|e|>{'a' * length} naïve abb bb"
    assert "_kernel_encoder" not in vars(tokenizer)
    assert tokenizer.encode(text) == plainly(tokenizer, text)
    assert tokenizer.encode(f"{'a' * length} naïve") == [257 if length > 1 else ord("a"), 258]
    assert "_kernel_encoder" in vars(tokenizer)


def test_threads_share_a_tokenizer(gpt2, hard_texts):
    texts = [f"{text} {number}" * 20 for number in range(20) for text in hard_texts]
    expected = [gpt2.encode(text) for text in texts]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(gpt2.encode, texts)) == expected


@pytest.mark.parametrize("num_threads", [None, 1, 3])
@pytest.mark.parametrize("is_worth_a_thread", [True, False])
def test_batches(gpt2, hard_texts, num_threads, is_worth_a_thread, monkeypatch):
    if is_worth_a_thread:
        for name in ("_MIN_CHARACTERS", "_MIN_IDS"):
            monkeypatch.setattr(tokenizer_module, name, 1)
    batch = gpt2.encode_batch(hard_texts * 5, num_threads=num_threads)
    assert [ids.tolist() for ids in batch] == [gpt2.encode(text) for text in hard_texts * 5]
    assert gpt2.decode_batch(batch, num_threads=num_threads) == hard_texts * 5
    assert gpt2.encode_batch([]) == gpt2.decode_batch([]) == []


@pytest.mark.parametrize("joined_ids", [1, 100, 1 << 30])
def test_rows_that_are_decoded_together(gpt2, hard_texts, joined_ids, monkeypatch):
    monkeypatch.setattr(encode_kernels, "_JOINED_IDS", joined_ids)
    rows = [gpt2.encode_array(text) for text in ["", *hard_texts, "", "é"]]
    rows += [rows[-1][:1], rows[-1].astype(np.int64), rows[-1].tolist()]  # a part of a character; other types
    assert gpt2.decode_batch(rows) == [gpt2.decode(row) for row in rows]
    assert gpt2.decode_batch(rows[:-2]) == [gpt2.decode(row) for row in rows[:-2]]
    with pytest.raises(DataError, match="got 50257"):
        gpt2.decode_batch([rows[1], np.array([1, 50257, 60000], np.uint16)])


def test_what_is_no_text_in_a_batch_is_named(gpt2):
    with pytest.raises(DataError, match="encode_batch: expected texts, got 5"):
        gpt2.encode_batch(["a", 5])
    with pytest.raises(DataError, match="surrogate"):
        gpt2.encode_batch(["a", "\ud800"])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.int32, np.int64, np.uint64, ">u2"])
def test_decodes_arrays_of_any_integers(gpt2, dtype):
    ids = np.array([72, 101, 220, 0, 255] * 50).astype(dtype)
    expected = b"".join(gpt2.vocab[token_id] for token_id in ids.tolist())
    assert gpt2.decode_bytes(ids) == expected
    assert gpt2.decode_bytes(ids[::2]) == b"".join(gpt2.vocab[token_id] for token_id in ids[::2].tolist())
    assert gpt2.decode_bytes(ids.reshape(5, 50)) == expected


@pytest.mark.parametrize(
    ("ids", "wrong"),
    [
        (np.array([1, 50257], np.uint16), "50257"),
        (np.array([1, 60000, 70000], np.uint32), "60000"),
        (np.array([1] * 200 + [-1]), "-1"),
        ([1] * 200 + [-1], "-1"),
        ([1] * 200 + [2**40], str(2**40)),
        (np.array([0.5]), "0.5"),
        ([1, 0.5] * 200, "0.5"),
    ],
)
def test_what_is_no_id_is_named(gpt2, ids, wrong):
    with pytest.raises(DataError, match=f"expected ids from 0 to 50256, got .*{wrong}"):
        gpt2.decode(ids)


def test_long_tokens_decode(small):
    vocab = small.vocab | {len(small.vocab): b"x" * 1000, len(small.vocab) + 1: b"y" * 17}
    tokenizer = Tokenizer(vocab, small.merges)
    ids = np.array([len(vocab) - 1, 97, len(vocab) - 2, 98] * 40)
    assert tokenizer.decode(ids) == ("y" * 17 + "a" + "x" * 1000 + "b") * 40
    assert tokenizer.decode(np.array([], np.uint16)) == ""


@pytest.mark.slow
@pytest.mark.parametrize("character", ["a", " ", "é"])
def test_ten_megabytes_of_one_run(gpt2, character):
    text = character * (10_000_000 // len(character.encode()))
    assert gpt2.decode(gpt2.encode_array(text)) == text


def test_utf8_is_encoded_as_the_text_that_it_is(gpt2, hard_texts):
    for text in hard_texts:
        assert gpt2.encode_bytes(text.encode()).tolist() == gpt2.encode(text)


@pytest.mark.slow
@pytest.mark.parametrize(
    "python_source", [2e6, pytest.param(100e6, marks=pytest.mark.endurance)], indirect=True
)
def test_megabytes_of_source_have_the_ids_of_others(gpt2, gpt2_tiktoken, gpt2_huggingface, python_source):
    ids = gpt2.encode_array(python_source)
    assert np.array_equal(ids, gpt2_tiktoken.encode_to_numpy(python_source, allowed_special="all"))
    beginning = python_source[: len(python_source) // 10]
    assert gpt2.encode(beginning) == gpt2_huggingface.encode(beginning).ids
    assert gpt2.decode(ids) == python_source
