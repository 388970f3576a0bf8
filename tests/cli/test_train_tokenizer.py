from pathlib import Path

from transformerlm.cli import train_tokenizer
from transformerlm.tokenizer import Tokenizer

WORDS = ["--data.corpus=fables", "--tokenizer.vocab_size=300"]


def test_it_trains_a_tokenizer_and_reuses_it(workplace, capfd):
    assert train_tokenizer.main(WORDS) == 0
    out, err = capfd.readouterr()
    assert out == ""
    assert "tokenizer data/fables/tokenizer: made (300 ids)" in err
    tokenizer = Tokenizer.from_dir("data/fables/tokenizer")
    assert tokenizer.vocab_size == 300
    assert tokenizer.special_token_ids == {"<|endoftext|>": 299}
    text = Path("fables/fox-crow.txt").read_text()
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert train_tokenizer.main(WORDS) == 0
    assert "reused" in capfd.readouterr().err


def test_a_pattern_that_does_not_compile_is_a_config_error(workplace, capfd):
    assert train_tokenizer.main([*WORDS, "--tokenizer.pattern=("]) == 2
    assert capfd.readouterr().err.count("\n") == 1
    assert not Path("data").exists()


def test_a_text_with_little_to_merge_gives_a_smaller_vocabulary_and_says_so(workplace, capfd):
    Path("short.txt").write_text("abc abc abc")
    words = ["--data.corpus=short.txt", "--tokenizer.vocab_size=1000", "--data.validation_fraction=0"]
    assert train_tokenizer.main(words) == 0
    assert "fewer than asked for" in capfd.readouterr().err
