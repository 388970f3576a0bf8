"""GPT-2's vocabulary in our tokenizer and in its peers, and texts that break tokenizers."""

import pytest
import tiktoken
import tokenizers

from benchmarking.corpora import python_sources
from tests.outside_data import outside_data
from transformerlm.config import GPT2_PATTERN
from transformerlm.tokenizer import Tokenizer
from transformerlm.tokenizer.kernel_library import CHOICE_VARIABLE

BOTH_WAYS = {
    *("test_any_bytes", "test_bpe", "test_stream"),
    *("test_threads", "test_tokenizer", "test_train"),
}
"""Test files that are run in plain Python, and again on the compiled kernels."""


def pytest_generate_tests(metafunc):
    names = [mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")]
    marked = [name for own in names for name in ([own] if isinstance(own, str) else own)]
    if "kernels" not in marked:
        ways = ["never", "always"] if metafunc.module.__name__.split(".")[-1] in BOTH_WAYS else ["never"]
        metafunc.parametrize("kernels", ways, indirect=True, scope="session")


@pytest.fixture(scope="session", autouse=True)
def kernels(request):
    """Value of TRANSFORMERLM_KERNELS, which is set to it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CHOICE_VARIABLE, request.param)
        yield request.param


@pytest.fixture(scope="session")
def shared_data():
    return outside_data("tinyshakespeare.txt", "wikitext2-valid.txt", "gpt2_vocab.json", "gpt2_merges.txt")


@pytest.fixture(scope="session")
def gpt2(shared_data, kernels):
    return Tokenizer.from_files(
        shared_data / "gpt2_vocab.json", shared_data / "gpt2_merges.txt", ["<|endoftext|>"]
    )


@pytest.fixture(scope="session")
def gpt2_tiktoken(gpt2):
    special = gpt2.special_token_ids
    ranks = {token: token_id for token_id, token in gpt2.vocab.items() if token_id not in special.values()}
    return tiktoken.Encoding("gpt2", pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens=special)


@pytest.fixture(scope="session")
def gpt2_huggingface(shared_data):
    model = tokenizers.models.BPE.from_file(
        str(shared_data / "gpt2_vocab.json"), str(shared_data / "gpt2_merges.txt")
    )
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return tokenizer


@pytest.fixture(scope="session", params=["tinyshakespeare.txt", "wikitext2-valid.txt"])
def corpus(request, shared_data):
    """A whole corpus, its line ends untouched."""
    return (shared_data / request.param).read_bytes().decode()


@pytest.fixture(scope="session")
def python_source(request):
    """Two megabytes of it; with the argument 100e6 a hundred, or what the machine has."""
    content = bytearray()
    for source in python_sources():
        content += source
        if len(content) > getattr(request, "param", 2e6):
            break
    return content.decode()


@pytest.fixture(scope="session")
def hard_texts():
    """Short texts, each with something in it at which a tokenizer or a stream has gone wrong."""
    return [
        "",
        " ",
        "\n",
        "a",
        "Hello, world! It's we'll they've I'M don''t 'tis",
        "line one\n\n\n  line two\r\n\r\n\tline three   \n",
        "x  \n \n  y",
        "trailing space ",
        "trailing newlines\n\n\n",
        "12345 1,234.5 ٣٤٥ ½ Ⅷ",
        "naïve café — “quotes” … ¿qué?",
        "日本語のテキスト、中文文本。한국어 텍스트",
        "emoji 👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 and flags 🇩🇪🇫🇷",
        "e\u0301 combining \u0308 a\u0300\u0301\u0302",
        "العربية עברית हिन्दी ไทย",
        "\u00a0\u2003\u3000wide\u2028spaces\u0085here\x1c\x1d\x1e\x1f",
        "<|endoftext|>",
        "a<|endoftext|>b",
        "<|endoftext|><|endoftext|>",
        "  <|endoftext|>  \n\n<|endoftext|>",
        "<|endoftext|",
        "<<|endoftext|>|>",
        "<|endoftext|<|endoftext|>",
        "\x00\x01\x7f\ufeff\ufffd\U0010ffff",
        "def f(x):\n    if x:\n        return  x  # note\n\n\nclass A: pass\n",
    ]
