"""Threads that use one tokenizer, and several, at the same time; and what all of them leave alone."""

import ctypes
import itertools
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from transformerlm.tokenizer import Tokenizer, train_bpe_from_texts

SPECIAL_TOKENS = ["<|e|>", "<|e|><|e|>"]
CORPORA = [
    "low lower lowest it's we'll <|e|> !!! \n\n" * 40,
    "naïve 中文 12 1234 wide wider widest 👍🏽 <|e|>" * 40,
]


def train(text):
    return train_bpe_from_texts([text], 330, SPECIAL_TOKENS, num_workers=1)


def all_ways(tokenizer, text):
    """What every way into and out of the tokenizer gives."""
    ids = tokenizer.encode(text)
    return (
        ids,
        tokenizer.encode(text, allowed_special="none"),
        tokenizer.encode_bytes(text.encode() + b"\xff").tolist(),
        tokenizer.encode_with_offsets(text)[1].tolist(),
        list(tokenizer.encode_iterable([text[:7], text[7:]])),
        tokenizer.decode(ids),
        tokenizer.decode_batch([ids] * 3, num_threads=2),
    )


def test_threads_with_one_tokenizer_and_with_several_get_what_one_thread_gets(kernels):
    generator = random.Random(0)
    words = "".join(CORPORA).split(" ")
    texts = [" ".join(generator.choices(words, k=80)) for _ in range(12)]
    tokenizers = [Tokenizer(*train(corpus), SPECIAL_TOKENS) for corpus in CORPORA]
    expected = [all_ways(tokenizer, text) for text, tokenizer in itertools.product(texts, tokenizers)]
    merges = [train(corpus) for corpus in CORPORA]
    for _ in range(3):  # new tokenizers: their encoders are made by whichever thread comes first
        fresh = [Tokenizer(own.vocab, own.merges, SPECIAL_TOKENS) for own in tokenizers]
        with ThreadPoolExecutor(8) as pool:
            learned = [pool.submit(train, corpus) for corpus in CORPORA]
            pairs = itertools.product(texts, fresh)
            assert list(pool.map(lambda pair: all_ways(pair[1], pair[0]), pairs)) == expected
            assert [future.result() for future in learned] == merges


def test_what_others_set_on_ctypes_does_not_reach_the_kernels(kernels, monkeypatch):
    """Functions of `ctypes.pythonapi` are shared by the process, with the types that are set on them."""
    tokenizer = Tokenizer(*train(CORPORA[0]), SPECIAL_TOKENS)
    expected = tokenizer.encode("lowest é")
    for name in ("PyBytes_AsString", "PyUnicode_AsUTF8AndSize"):
        monkeypatch.setattr(getattr(ctypes.pythonapi, name), "restype", ctypes.c_char_p)
        monkeypatch.setattr(getattr(ctypes.pythonapi, name), "argtypes", [ctypes.c_int])
    assert tokenizer.encode("lowest é") == expected
    assert tokenizer.encode_bytes("lowest é".encode()).tolist() == expected


@pytest.mark.parametrize("kernels", ["always"], indirect=True)
def test_the_process_is_left_as_it_was(kernels):
    code = """
import ctypes, locale, os, random, signal, sys, threading, warnings
import numpy as np

def state():
    names = ("PyBytes_AsString", "PyUnicode_AsUTF8AndSize")
    functions = [getattr(ctypes.pythonapi, name) for name in names]
    return (
        [(function.argtypes, function.restype) for function in functions],
        dict(os.environ), random.getstate(),
        str(np.random.get_state()), np.geterr(), np.get_printoptions(), locale.setlocale(locale.LC_ALL),
        [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)], sys.getrecursionlimit(),
        sys.getswitchinterval(), threading.active_count(), warnings.filters[:], os.getcwd(), sys.path[:],
    )

before = state()
from transformerlm.tokenizer import Tokenizer, train_bpe_from_texts
tokenizer = Tokenizer(*train_bpe_from_texts(["low lower lowest <|e|>"] * 9, 270, ["<|e|>"]), ["<|e|>"])
assert tokenizer.decode(tokenizer.encode("lowest é")) == "lowest é"
tokenizer.encode_batch(["low", "lower"], num_threads=2)
for name, old, new in zip(range(99), before, state()):
    assert old == new, (name, old, new)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
