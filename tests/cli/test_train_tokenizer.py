from pathlib import Path

from transformerlm.cli import train_tokenizer
from transformerlm.tokenizer import Tokenizer, train_bpe_from_texts

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


def test_verify_checks_what_it_trains_and_what_is_there_already(workplace, capfd):
    for made in ("made", "reused"):
        assert train_tokenizer.main(["--verify", *WORDS]) == 0
        out, err = capfd.readouterr()
        assert out == ""
        assert f"tokenizer data/fables/tokenizer: {made} (300 ids" in err
        assert "tokenizer data/fables/tokenizer: merges verified: 43 of 43 are of maximal count\n" in err


def test_verify_refuses_a_tokenizer_of_other_text_with_one_line_and_status_3(workplace, capfd):
    vocab, merges = train_bpe_from_texts(["zq zq zq"], 259, ["<|endoftext|>"])
    Tokenizer(vocab, merges, ["<|endoftext|>"]).save("other")
    assert train_tokenizer.main([*WORDS, "--tokenizer.tokenizer_dir=other"]) == 0
    capfd.readouterr()
    assert train_tokenizer.main([*WORDS, "--tokenizer.tokenizer_dir=other", "--verify"]) == 3
    reused, line = capfd.readouterr().err.splitlines()
    assert reused == "tokenizer other: reused (259 ids)"
    assert line.startswith(
        "tokenizer other: in this corpus merge 0 is of (b'z', b'q'), which occurs 0 times, while"
    )
