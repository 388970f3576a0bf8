import itertools
import pickle
import random
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import tiktoken
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from transformerlm.errors import ConfigError, DataError
from transformerlm.tokenizer import (
    GPT2_PATTERN,
    StreamDecoder,
    Tokenizer,
    kernel_library,
    train_bpe_from_texts,
)
from transformerlm.tokenizer.reference import encode_slowly

BYTES = {byte: bytes([byte]) for byte in range(256)}
SPECIAL_TOKENS = ["<|e|>", "<|e|><|e|>", " a b", "\n\n", "👍🏽", "👍"]

# Characters that both Python's and the peers' Unicode know: on others they may rightly differ.
assigned = st.characters(exclude_categories=["Cs", "Cn"])


@pytest.fixture(scope="module")
def small():
    """A small vocabulary with special tokens that begin, contain and continue each other."""
    text = (
        "They've seen naïve 中文 text: the lowest, the lower, the low-est!\n\n  aaaa aaaaa 1234 12 👍🏽👍\n"
        * 3
    )
    vocab, merges = train_bpe_from_texts([text], 256 + 80 + 6, SPECIAL_TOKENS, num_workers=1)
    return Tokenizer(vocab, merges, SPECIAL_TOKENS)


def assert_equal_to_peers(text, ours, tiktoken_encoding, huggingface):
    ids = ours.encode(text)
    assert ids == tiktoken_encoding.encode(text, allowed_special="all")
    assert ids == huggingface.encode(text).ids
    assert ours.decode(ids) == text


def test_gpt2_equals_tiktoken_and_huggingface_on_hard_texts(
    gpt2, gpt2_tiktoken, gpt2_huggingface, hard_texts
):
    for text in hard_texts:
        assert_equal_to_peers(text, gpt2, gpt2_tiktoken, gpt2_huggingface)


@settings(max_examples=100, deadline=None)
@given(
    text=st.text(assigned)
    | st.lists(st.sampled_from(["<|endoftext|>", " ", "\n", "it", "'s", "é"])).map("".join)
)
def test_gpt2_equals_tiktoken_and_huggingface_on_any_text(gpt2, gpt2_tiktoken, gpt2_huggingface, text):
    assert_equal_to_peers(text, gpt2, gpt2_tiktoken, gpt2_huggingface)


@pytest.mark.slow
def test_gpt2_equals_tiktoken_on_whole_corpora(gpt2, gpt2_tiktoken, corpus):
    ids = gpt2.encode_array(corpus)
    assert np.array_equal(ids, gpt2_tiktoken.encode_to_numpy(corpus))
    assert gpt2.decode(ids) == corpus


def test_gpt2_equals_huggingface_on_slices_of_corpora(gpt2, gpt2_huggingface, corpus):
    for start in range(0, len(corpus), 300_000):
        text = corpus[start : start + 20_000]
        assert gpt2.encode(text) == gpt2_huggingface.encode(text).ids


@pytest.mark.slow
@pytest.mark.endurance
def test_gpt2_equals_huggingface_on_whole_corpora(gpt2, gpt2_huggingface, corpus):
    assert gpt2.encode(corpus) == gpt2_huggingface.encode(corpus).ids


@pytest.mark.parametrize(
    "length", [40_000, pytest.param(1_000_000, marks=[pytest.mark.slow, pytest.mark.endurance])]
)
@pytest.mark.parametrize("letters", ["a", "!", "abcdefghijklmnopqrstuvwxyz"])
def test_long_runs_are_right(gpt2, gpt2_tiktoken, letters, length):
    text = "".join(random.Random(0).choices(letters, k=length))
    assert np.array_equal(gpt2.encode_array(text), gpt2_tiktoken.encode_to_numpy(text))


@settings(deadline=None)
@given(text=st.text() | st.text(alphabet="aelowst 12\n'é中👍🏽<|>"))
def test_equals_the_slow_encoder_and_decodes_to_the_text(small, text):
    slowly = []
    for segment, is_special in small.pretokenizer.split_special(text):
        words = [segment] if is_special else small.pretokenizer.pretokens(segment)
        for word in words:
            slowly += [word.encode()] if is_special else encode_slowly(word, small.merges)
    ids = small.encode(text)
    assert [small.vocab[token_id] for token_id in ids] == slowly
    assert small.decode(ids) == text
    assert small.decode_bytes(ids) == text.encode()


def test_encoding_again_gives_the_same(gpt2, hard_texts):
    first = [gpt2.encode(text) for text in hard_texts]
    assert [gpt2.encode(text) for text in hard_texts] == first


def test_a_full_cache_starts_again(small, monkeypatch, kernels):
    monkeypatch.setattr("transformerlm.tokenizer.encode._MAX_CACHED", 10)
    monkeypatch.setattr("transformerlm.tokenizer.encode_kernels._FIRST_CAPACITY", 8)
    monkeypatch.setattr("transformerlm.tokenizer.encode_kernels._MAX_WORDS", 32)
    copy = pickle.loads(pickle.dumps(small))
    text = " ".join(
        f"low{number} {number}{'longer than sixteen bytes' * (number % 3)}" for number in range(100)
    )
    assert copy.encode(text) == small.encode(text)
    if kernels == "never":
        assert len(copy._python_encoder.cache) <= 10
    else:
        assert len(copy._kernel_encoder._idle[0]._words["table"]) == 4 * 32


@pytest.mark.parametrize("kernels", ["auto"], indirect=True, scope="session")
def test_small_texts_add_up_until_the_kernels_are_worth_it(kernels, gpt2, monkeypatch):
    asked = []
    monkeypatch.setattr(kernel_library, "should_use", lambda seconds: asked.append(seconds) or seconds > 1)
    copy = pickle.loads(pickle.dumps(gpt2))
    text = "some words " * 100_000
    assert not copy.uses_kernels(len(text))
    assert not copy.uses_kernels(len(text))  # asking is not encoding
    assert asked[0] == asked[1]
    for _ in range(2):
        copy.encode(text)
        assert "_kernel_encoder" not in vars(copy)
    expected = gpt2.encode(text)
    assert copy.encode(text) == expected
    assert "_kernel_encoder" in vars(copy)
    assert copy.encode("a few") == gpt2.encode("a few")


def chunkings(text):
    """The text in two chunks, for every place between them, and in single characters."""
    yield list(text)
    for cut in range(len(text) + 1):
        yield [text[:cut], text[cut:]]


@pytest.mark.parametrize("piece_size", [1, 1 << 16])
def test_a_stream_has_the_ids_of_the_whole_for_every_chunking(gpt2, hard_texts, piece_size):
    for text in hard_texts:
        whole = gpt2.encode(text)
        for chunks in chunkings(text):
            assert list(gpt2.encode_iterable(iter(chunks), piece_size=piece_size)) == whole


def test_a_stream_has_the_ids_of_the_whole_for_every_two_cuts(small):
    texts = ["<|e|><|e|><|e|>", "a  <|e|> \n\n a b", "👍👍🏽 's\n\n\n\nx", "it's  a bc"]
    for text in texts:
        whole = small.encode(text)
        for start, end in itertools.combinations_with_replacement(range(len(text) + 1), 2):
            chunks = [text[:start], text[start:end], text[end:]]
            assert list(small.encode_iterable(chunks, piece_size=1)) == whole


def test_a_long_stream_has_the_ids_of_the_whole(gpt2, corpus):
    text = corpus[:100_000]
    generator = random.Random(0)
    starts = [0, *sorted(generator.sample(range(len(text)), 500)), len(text)]
    chunks = [text[start:end] for start, end in itertools.pairwise(starts)]
    assert list(gpt2.encode_iterable(chunks)) == gpt2.encode(text)


@pytest.mark.parametrize(
    "num_chunks", [100, pytest.param(5000, marks=[pytest.mark.slow, pytest.mark.endurance])]
)
def test_memory_of_a_stream_does_not_grow_with_it(gpt2, shared_data, num_chunks):
    corpus = (shared_data / "tinyshakespeare.txt").read_text()

    def peak(number):
        chunks = itertools.islice(itertools.cycle(corpus[at : at + 1000] for at in range(100)), number)
        tracemalloc.start()
        num_ids = sum(1 for _ in gpt2.encode_iterable(chunks))
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert num_ids > number * 100
        return highest

    peak(200)  # fills the cache
    assert peak(10 * num_chunks) < 1.2 * peak(num_chunks)


def test_a_stream_gives_ids_before_it_ends(gpt2):
    endless = itertools.repeat("a few words and ")
    assert len(list(itertools.islice(gpt2.encode_iterable(endless), 1000))) == 1000


def test_arrays_have_the_smallest_dtype_that_holds_every_id(gpt2):
    ids = gpt2.encode_array("Hello<|endoftext|>")
    assert ids.dtype == gpt2.dtype == np.uint16
    assert ids.tolist() == gpt2.encode("Hello<|endoftext|>") == [15496, 50256]
    assert gpt2.encode_array("").dtype == np.uint16
    assert len(gpt2.encode_array("")) == 0
    ids[0] = 1  # it is the caller's own
    assert gpt2.encode("Hello") == [15496]

    pairs = (bytes(pair) for pair in itertools.product(range(256), repeat=2))
    large = Tokenizer(dict(enumerate([*BYTES.values(), *pairs])), [], ["<|e|>"])
    ids = large.encode_array("a<|e|>")
    assert ids.dtype == np.uint32
    assert ids.tolist() == [97, 65792]
    exact = Tokenizer(dict(itertools.islice(large.vocab.items(), 65536)), [])
    assert exact.dtype == np.uint16


def test_decoding_takes_lists_arrays_and_iterables(gpt2):
    ids = gpt2.encode("naïve 👍 text")
    for given_ids in (
        ids,
        tuple(ids),
        iter(ids),
        np.array(ids),
        np.array(ids, np.uint16),
        gpt2.encode_array("naïve 👍 text"),
        torch.tensor(ids, device="cpu", dtype=torch.int64),
        [*torch.tensor(ids, device="cpu", dtype=torch.int64)],
        [*np.array(ids)],
        [ids],
        np.array([ids]),
        torch.tensor([ids], device="cpu", dtype=torch.int64),
    ):
        assert gpt2.decode(given_ids) == "naïve 👍 text"
    for nothing in ([], (), np.array([]), torch.empty(0, device="cpu", dtype=torch.float32), [[]]):
        assert gpt2.decode(nothing) == ""
    assert gpt2.decode(15496) == gpt2.decode(np.int64(15496)) == "Hello"
    batch = [gpt2.encode("a b"), gpt2.encode("c d")]
    for given_ids in (batch, np.array(batch), torch.tensor(batch, device="cpu", dtype=torch.int32)):
        assert gpt2.decode_batch(given_ids) == ["a b", "c d"]


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        ([[1], [2]], r"from 0 to 50256, got \[1\]$"),
        ([1, 2.0], "got 2.0$"),
        (np.array([1.0]), "got 1.0$"),
        (torch.ones(1, device="cpu", dtype=torch.float32), "got 1.0$"),
        ("Hello", "got 'Hello'$"),
        (["Hello"], "got 'Hello'$"),
        (None, "got None$"),
        (1.5, "got 1.5$"),
    ],
)
def test_what_is_no_row_of_ids_is_one_line(gpt2, wrong, what):
    with pytest.raises(DataError, match=rf"^cannot decode: expected .*{what}"):
        gpt2.decode(wrong)


def test_one_text_in_place_of_several_is_not_taken_for_its_characters(small):
    with pytest.raises(DataError, match="expected several texts, got 'abc'"):
        small.encode_batch("abc")
    with pytest.raises(DataError, match="expected several texts"):
        train_bpe_from_texts("abc", 300, [])
    with pytest.raises(ConfigError, match=r"special tokens: expected a list of them, got '<\|e\|>'"):
        train_bpe_from_texts(["abc"], 300, "<|e|>")
    for wrong in (["abc"], None, 3):
        with pytest.raises(DataError, match=r"encode: expected text, got .*; encode_batch takes several"):
            small.encode(wrong)


def test_malformed_bytes_are_replaced(small):
    assert small.decode([0xFF, 0x61]) == "\ufffda"
    assert small.decode([0xE4, 0xB8]) == "\ufffd"
    assert small.decode_bytes([0xFF, 0x61]) == b"\xffa"


@pytest.mark.parametrize("bad_id", [-1, 50257, 10**9])
def test_an_unknown_id_is_named(gpt2, bad_id):
    with pytest.raises(DataError, match=rf"^cannot decode: expected ids from 0 to 50256, got {bad_id}$"):
        gpt2.decode([1, bad_id])
    with pytest.raises(DataError, match="cannot decode"):
        gpt2.decode(np.array([bad_id]))


def test_half_a_surrogate_pair_is_refused(gpt2):
    with pytest.raises(DataError, match=r"'\\ud83d' in a text: half of a surrogate pair"):
        gpt2.encode("a \ud83d b")


def test_special_tokens_in_the_vocabulary_keep_their_ids_and_others_are_added(gpt2):
    assert gpt2.vocab_size == 50257
    assert gpt2.special_token_ids == {"<|endoftext|>": 50256}
    more = Tokenizer(gpt2.vocab, gpt2.merges, ["<|pad|>", "<|endoftext|>", "<|pad|>", "<|x|>"])
    assert more.special_token_ids == {"<|pad|>": 50257, "<|endoftext|>": 50256, "<|x|>": 50258}
    assert more.vocab_size == 50259
    assert more.encode("<|x|>a<|pad|>") == [50258, 64, 50257]
    assert more.decode([50258, 64, 50257]) == "<|x|>a<|pad|>"


def test_without_special_tokens_their_text_is_ordinary(gpt2, gpt2_tiktoken):
    plain = Tokenizer(gpt2.vocab, gpt2.merges)
    text = "one<|endoftext|>two"
    assert plain.special_token_ids == {}
    assert plain.encode(text) == gpt2_tiktoken.encode(text, disallowed_special=())
    assert 50256 not in plain.encode(text)


def test_another_pattern(gpt2, gpt2_tiktoken, hard_texts):
    pattern = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]+|\s+"
    other = Tokenizer(gpt2.vocab, gpt2.merges, ["<|endoftext|>"], pattern=pattern)
    peer = tiktoken.Encoding(
        "other",
        pat_str=pattern,
        mergeable_ranks=gpt2_tiktoken._mergeable_ranks,
        special_tokens=gpt2.special_token_ids,
    )
    for text in hard_texts:
        assert other.encode(text) == peer.encode(text, allowed_special="all")
        assert list(other.encode_iterable(text, piece_size=1)) == other.encode(text)
    assert other.encode("12345 6") != gpt2.encode("12345 6")


def test_the_fingerprint_is_of_all_that_matters(small):
    same = Tokenizer(dict(reversed(small.vocab.items())), small.merges, list(reversed(SPECIAL_TOKENS)))
    assert same.fingerprint == small.fingerprint == pickle.loads(pickle.dumps(small)).fingerprint
    a, b = small.merges[-2:]
    others = [
        Tokenizer(small.vocab, [*small.merges[:-2], b, a], SPECIAL_TOKENS),
        Tokenizer(small.vocab, small.merges, SPECIAL_TOKENS[1:]),
        Tokenizer(small.vocab, small.merges, [*SPECIAL_TOKENS, "<|new|>"]),
        Tokenizer(small.vocab, small.merges, SPECIAL_TOKENS, pattern=r"\s+|\S+"),
        Tokenizer({**small.vocab, 97: b"b", 98: b"a"}, small.merges, SPECIAL_TOKENS),
    ]
    assert len({small.fingerprint, *(other.fingerprint for other in others)}) == 6
    assert len(small.fingerprint) == 64


def test_survives_pickling_without_its_cache(gpt2):
    gpt2.encode("some text to remember")
    copy = pickle.loads(pickle.dumps(gpt2))
    assert not {"_python_encoder", "_kernel_encoder"} & vars(copy).keys()
    assert copy.encode("it's 👍<|endoftext|>") == gpt2.encode("it's 👍<|endoftext|>")
    assert copy.pretokenizer.pattern == GPT2_PATTERN


@pytest.mark.parametrize(
    ("vocab", "merges", "special_tokens", "error", "what"),
    [
        ({**BYTES, 257: b"ab"}, [], [], DataError, "vocab: expected the ids 0 to 256"),
        ({**BYTES, 256: b"a"}, [], [], DataError, "vocab: token b'a' is there twice"),
        ({97: b"a"}, [], [], DataError, "vocab: expected the ids 0 to 0"),
        (
            {**BYTES, 256: b"ab"},
            [(b"a", b"c")],
            [],
            DataError,
            r"merges\[0\]: .* b'ac' is not in the vocabulary",
        ),
        (BYTES, [], [""], ConfigError, "special tokens"),
    ],
)
def test_refuses_what_it_cannot_use(vocab, merges, special_tokens, error, what):
    with pytest.raises(error, match=what):
        Tokenizer(vocab, merges, special_tokens)


@settings(deadline=None)
@given(text=st.text())
def test_a_stream_decoder_never_splits_a_character(small, text):
    decoder = StreamDecoder(small)
    pieces = [decoder.feed(token_id) for token_id in small.encode(text)]
    assert "".join(pieces) == text
    assert all("\ufffd" not in piece for piece in pieces) or "\ufffd" in text
    assert decoder.flush() == ""


@settings(deadline=None)
@given(numbers=st.lists(st.integers(0, 10_000), max_size=30))
def test_a_stream_decoder_agrees_with_decoding_the_whole(small, numbers):
    ids = [number % small.vocab_size for number in numbers]
    decoder = StreamDecoder(small)
    for _ in range(2):  # a flush leaves it as new
        assert "".join(map(decoder.feed, ids)) + decoder.flush() == small.decode(ids)


@pytest.mark.parametrize("kernels", ["always"], indirect=True, scope="session")
def test_nothing_here_imports_torch(kernels):
    program = "import sys, transformerlm.tokenizer; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
