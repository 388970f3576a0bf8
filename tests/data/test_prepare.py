import dataclasses
import shutil
import threading
import time
from pathlib import Path

import pytest

import transformerlm.data
from tests.outside_data import outside_data
from transformerlm.config import DataConfig, TokenizerConfig
from transformerlm.data import TokenFile, build_lock, make_data, prepare, prepare_data, prepare_tokenizer
from transformerlm.data.build_journal import UNFINISHED, Progress
from transformerlm.data.corpus import find_corpora
from transformerlm.data.prepare import fill_placeholders, training_texts
from transformerlm.data.token_file import Written
from transformerlm.errors import ConfigError, DataError
from transformerlm.storage.lock import locked
from transformerlm.tokenizer import Pretokenizer, train_bpe_from_texts

EOT = "<|endoftext|>"


class Listener:
    def __init__(self):
        self.messages, self.bars = [], []

    def say(self, message):
        self.messages.append(message)

    def bar(self, total, unit, description):
        bar = CountingBar(total, unit)
        self.bars.append(bar)
        return bar


class CountingBar:
    def __init__(self, total, unit):
        self.total, self.unit, self.done = total, unit, 0

    def update(self, amount):
        self.done += amount

    def set_postfix_str(self, text):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass


@pytest.fixture
def road(tmp_path):
    """A corpus of its own, and both sections of a config for it."""
    stories = [f"story {i}: the cat number {i * i} sat on the mat. " * 3 for i in range(60)]
    (tmp_path / "stories.txt").write_text(EOT.join(stories))
    data = DataConfig(corpus=str(tmp_path / "stories.txt"), token_dir=str(tmp_path / "{corpus}"))
    return data, TokenizerConfig(tokenizer_dir=str(tmp_path / "{corpus}" / "tok"), vocab_size=300)


def content_of(folder):
    """Everything in it but the locks."""
    files = [path for path in sorted(Path(folder).rglob("*")) if path.is_file() and path.name != ".lock"]
    return {path: path.read_bytes() for path in files}


def test_what_is_missing_is_made_and_what_is_there_is_reused(road, tmp_path):
    data, config = road
    first, second = Listener(), Listener()
    tokenizer = prepare_tokenizer(data, config, first)
    made = prepare_data(data, config, tokenizer, first)
    before = content_of(tmp_path / "stories")
    assert len(before) == 7
    again = prepare_tokenizer(data, config, second)
    reused = prepare_data(data, config, again, second)
    assert content_of(tmp_path / "stories") == before
    assert again.fingerprint == tokenizer.fingerprint == made.train.fingerprint
    assert (reused.train.sha256, reused.val.sha256) == (made.train.sha256, made.val.sha256)
    assert [message.split(": ")[-1].split()[0] for message in first.messages] == ["made", "made"]
    assert [message.split(": ")[-1].split()[0] for message in second.messages] == ["reused", "reused"]
    assert second.bars == []
    counting, learning, encoding = first.bars
    assert encoding.done == encoding.total == (tmp_path / "stories.txt").stat().st_size
    assert (learning.done, learning.total) == (43, 43)
    assert 0 <= counting.total - counting.done <= 60 * len(EOT)


def test_the_tokenizer_is_trained_on_the_training_documents_only(road, tmp_path):
    data, config = road
    tokenizer = prepare_tokenizer(data, config)
    texts = list(training_texts(data, find_corpora(data), Pretokenizer().safe_cut))
    _, merges = train_bpe_from_texts(texts, 300, config.special_tokens)
    assert tokenizer.merges == merges
    made = prepare_data(data, config, tokenizer)
    assert tokenizer.decode(made.train.tokens) == "".join(text + EOT for text in texts)
    everything = (tmp_path / "stories.txt").read_text().split(EOT)
    assert set(texts) | set(tokenizer.decode(made.val.tokens).split(EOT)[:-1]) == set(everything)


def test_both_halves_agree_with_make_data(road, tmp_path):
    data, config = road
    tokenizer = prepare_tokenizer(data, config)
    made = prepare_data(data, config, tokenizer)
    other = make_data(data, tokenizer, tmp_path / "other")
    assert (made.train.sha256, made.val.sha256) == (other.train.sha256, other.val.sha256)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"vocab_size": 310}, r"\[tokenizer\].vocab_size: 300 -> 310"),
        ({"pattern": r"\S+|\s+"}, r"\[tokenizer\].pattern: "),
        ({"special_tokens": (EOT, "<x>")}, r"\[tokenizer\].special_tokens: "),
    ],
)
def test_a_tokenizer_made_otherwise_is_refused(road, change, line):
    data, config = road
    prepare_tokenizer(data, config)
    before = content_of(Path(data.corpus).parent)
    with pytest.raises(DataError, match=line) as caught:
        prepare_tokenizer(data, dataclasses.replace(config, **change))
    assert len(caught.value.lines) == 2
    assert "choose another folder with --tokenizer.tokenizer_dir=..., or remove it" in caught.value.lines[1]
    assert content_of(Path(data.corpus).parent) == before


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"validation_fraction": 0.1}, r"\[data\].validation_fraction: 0.05 -> 0.1"),
        ({"validation_split": "document"}, r"\[data\].validation_split: auto -> document"),
        ({"validation_fraction": 0}, r"\[data\].validation_fraction: 0.05 -> 0.0"),
        ({"document_separator": ""}, r"\[data\].document_separator: <\|endoftext\|> -> \n"),
        ({"encoding_errors": "replace"}, r"\[data\].encoding_errors: strict -> replace"),
    ],
)
def test_token_files_made_otherwise_are_refused(road, change, line):
    data, config = road
    tokenizer = prepare_tokenizer(data, config)
    prepare_data(data, config, tokenizer)
    before = content_of(Path(data.corpus).parent)
    changed = dataclasses.replace(data, **change)
    with pytest.raises(DataError, match=line) as caught:
        prepare_data(changed, config, tokenizer)
    assert len(caught.value.lines) == 2
    assert "choose another folder with --data.token_dir=..., or remove it" in caught.value.lines[1]
    with pytest.raises(DataError, match=line):
        prepare_tokenizer(changed, config)
    assert content_of(Path(data.corpus).parent) == before


def test_what_changes_no_result_needs_nothing_anew(road):
    data, config = road
    made = prepare_data(data, config, prepare_tokenizer(data, config))
    changed = dataclasses.replace(data, num_workers=1)
    assert prepare_data(changed, config, prepare_tokenizer(changed, config)).train.sha256 == made.train.sha256


def test_a_corpus_that_has_changed_is_noticed(road):
    data, config = road
    tokenizer = prepare_tokenizer(data, config)
    prepare_data(data, config, tokenizer)
    with Path(data.corpus).open("a") as file:
        file.write("more")
    for call in (lambda: prepare_tokenizer(data, config), lambda: prepare_data(data, config, tokenizer)):
        with pytest.raises(DataError, match=r"files of \[data\].corpus: 1 file, .* -> 1 file, "):
            call()


def test_another_tokenizer_s_token_files_are_refused(road):
    data, config = road
    prepare_data(data, config, prepare_tokenizer(data, config))
    other = dataclasses.replace(config, tokenizer_dir=config.tokenizer_dir + "2", vocab_size=290)
    tokenizer = prepare_tokenizer(data, other)
    with pytest.raises(DataError, match=r"tokenizer .*tok2: \w{64} -> \w{64}"):
        prepare_data(data, other, tokenizer)


def test_a_corpus_that_is_gone_is_no_loss_once_all_is_made(road):
    data, config = road
    tokenizer = prepare_tokenizer(data, config)
    Path(data.corpus).rename(data.corpus + ".away")
    with pytest.raises(DataError, match=r"\[data\].corpus: expected a file"):
        prepare_data(data, config, tokenizer)
    Path(data.corpus + ".away").rename(data.corpus)
    made = prepare_data(data, config, tokenizer)
    Path(data.corpus).unlink()
    listener = Listener()
    reused = prepare_data(data, config, prepare_tokenizer(data, config, listener), listener)
    assert reused.train.sha256 == made.train.sha256
    assert "no such file; going on with what was made from it before" in listener.messages[0]
    with pytest.raises(DataError, match=r"validation_fraction: 0.05 -> 0.5"):
        prepare_data(dataclasses.replace(data, validation_fraction=0.5), config, tokenizer)


def test_what_an_interrupted_build_has_left_is_made_again(road):
    data, config = road
    tokenizer = prepare_tokenizer(data, config)
    made = prepare_data(data, config, tokenizer)
    for lost in (made.val.path, made.train.path):
        lost.with_name(lost.name + ".json").unlink()
        again = prepare_data(data, config, tokenizer)
        assert (again.train.sha256, again.val.sha256) == (made.train.sha256, made.val.sha256)
        again.train.verify()
        again.val.verify()


def test_a_tokenizer_from_elsewhere_is_taken_as_it_is(road, tmp_path):
    data, config = road
    shared = outside_data("gpt2_vocab.json", "gpt2_merges.txt")
    folder = tmp_path / "gpt2"
    folder.mkdir()
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(shared / f"gpt2_{name}", folder / name)
    own = dataclasses.replace(config, tokenizer_dir=str(folder))
    tokenizer = prepare_tokenizer(data, own)
    assert tokenizer.vocab_size == 50257
    made = prepare_data(data, own, tokenizer)
    assert made.train.vocab_size == 50257
    assert made.train.tokens[-1] == tokenizer.special_token_ids[EOT] == 50256


def test_a_tokenizer_that_a_program_has_saved_is_taken_as_it_is(road, tokenizer):
    data, config = road
    tokenizer.save(fill_placeholders(config.tokenizer_dir, data))
    assert prepare_tokenizer(data, config).fingerprint == tokenizer.fingerprint


def test_a_corpus_too_small_for_the_vocabulary_is_no_error_but_said(road):
    data, config = road
    listener = Listener()
    tokenizer = prepare_tokenizer(data, dataclasses.replace(config, vocab_size=5000), listener)
    assert tokenizer.vocab_size < 5000
    assert f"{5000 - tokenizer.vocab_size} fewer than asked for" in listener.messages[0]
    # Asked for the same again, it is the same again.
    again = prepare_tokenizer(data, dataclasses.replace(config, vocab_size=5000))
    assert again.fingerprint == tokenizer.fingerprint


def test_what_was_passed_over_is_said(road, tmp_path):
    data, config = road
    folder = tmp_path / "folder"
    folder.mkdir()
    shutil.copy(data.corpus, folder / "a.txt")
    (folder / "b.bin").write_bytes(b"\0")
    (folder / ".c").write_text("hidden")
    listener = Listener()
    prepare_tokenizer(dataclasses.replace(data, corpus=str(folder)), config, listener)
    assert "not read: hidden: 1 (.c)" in listener.messages[0]
    assert "not read: binary: 1 (b.bin)" in listener.messages[1]


def test_nothing_to_train_on_is_an_error_and_leaves_nothing(road):
    data, config = road
    Path(data.corpus).write_text("\n")
    with pytest.raises(DataError, match="got 1 file of 1 bytes with nothing but white space"):
        prepare_tokenizer(data, config)
    assert not Path(fill_placeholders(config.tokenizer_dir, data)).exists()


@pytest.mark.parametrize(
    ("corpus", "path", "filled"),
    [
        ("python-stdlib", "data/{corpus}/tokenizer", "data/python-stdlib/tokenizer"),
        ("texts/My Books/*.txt", "{corpus}", "My-Books"),
        ("a.txt", "runs/{corpus}-{run_name}", "runs/a-{run_name}"),
    ],
)
def test_placeholders(corpus, path, filled):
    assert fill_placeholders(path, DataConfig(corpus=corpus)) == filled


def test_the_user_s_own_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    assert fill_placeholders("~/{corpus}", DataConfig()) == "/home/somebody/python-stdlib"


def test_the_package_has_its_public_names_and_no_others():
    assert all(hasattr(transformerlm.data, name) for name in transformerlm.data.__all__)
    assert not hasattr(transformerlm.data, "nothing")


def test_the_example_of_the_module_runs_and_returns_the_files(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("texts").mkdir()
    for number in range(30):
        Path(f"texts/{number}.txt").write_text(f"story {number}: the cat sat on the mat. " * 3)
    lines = [line.strip() for line in prepare.__doc__.splitlines() if line.startswith("    ")]
    names = {name: getattr(prepare, name) for name in dir(prepare)}
    exec("\n".join(lines), names)
    assert capsys.readouterr().out.startswith(f"{names['data'].train.num_tokens} [")
    assert TokenFile.open("data/texts/train.memmap").fingerprint == names["tokenizer"].fingerprint


def test_reuse_takes_no_lock(road, tmp_path):
    """What is there can be used while somebody else is at work in the folder, or nobody may write there."""
    data, config = road
    prepare_data(data, config, prepare_tokenizer(data, config))
    listener = Listener()
    with locked(tmp_path / "stories"):
        prepare_data(data, config, prepare_tokenizer(data, config, listener), listener)
    assert [message.split(": ")[-1].split()[0] for message in listener.messages] == ["reused", "reused"]


def test_who_has_waited_finds_all_made(road, tmp_path, monkeypatch):
    data, config = road
    tokenizer = prepare_tokenizer(data, config)
    monkeypatch.setattr(build_lock, "POLL_SECONDS", 0.01)
    listener = Listener()
    waiter = threading.Thread(target=prepare_data, args=(data, config, tokenizer, listener))
    with locked(tmp_path / "stories"):
        waiter.start()
        while not listener.messages:
            time.sleep(0.01)
        for path in make_data(data, tokenizer, tmp_path / "elsewhere").train.path.parent.iterdir():
            if path.name != ".lock":
                shutil.copy(path, tmp_path / "stories")
    waiter.join(20)
    assert "; waiting" in listener.messages[0]
    assert "reused" in listener.messages[1]
    assert listener.bars == []


def test_what_only_had_to_be_put_in_place_is_not_made_again(road, tmp_path):
    """Killed between any two of the last renames, after all was encoded."""
    data, config = road
    tokenizer = prepare_tokenizer(data, config)
    folder = tmp_path / "stories"
    made = prepare_data(data, config, tokenizer)
    before = content_of(folder)
    recipe = {"of": "whatever"}  # what is complete is complete
    parts = {name: Written() for name in ("train", "val")}
    names = ["val.memmap", "train.memmap", "val.memmap.json", "train.memmap.json"]
    for number in range(len(names) + 1):
        (folder / UNFINISHED).mkdir()
        for name in names[number:]:
            (folder / name).rename(folder / UNFINISHED / name)
        Progress(recipe=recipe, parts=parts, is_complete=True).write(folder)
        listener = Listener()
        again = prepare_data(data, config, tokenizer, listener)
        assert listener.bars == []
        assert (again.train.sha256, again.val.sha256) == (made.train.sha256, made.val.sha256)
        assert content_of(folder) == before


def test_an_unfinished_rest_beside_whole_files_is_removed(road, tmp_path):
    data, config = road
    tokenizer = prepare_tokenizer(data, config)
    prepare_data(data, config, tokenizer)
    before = content_of(tmp_path / "stories")
    (tmp_path / "stories" / UNFINISHED).mkdir()
    (tmp_path / "stories" / UNFINISHED / "train.memmap").write_bytes(b"x")
    prepare_data(data, config, tokenizer)
    assert content_of(tmp_path / "stories") == before


@pytest.mark.parametrize("corpus", ["tokens/train.memmap", "tokens/val.memmap.json"])
def test_a_corpus_that_would_be_replaced_is_refused(road, tmp_path, corpus):
    data, config = road
    path = tmp_path / corpus
    path.parent.mkdir()
    shutil.copy(data.corpus, path)
    own = dataclasses.replace(data, corpus=str(path), token_dir=str(tmp_path / "tokens"))
    with pytest.raises(ConfigError, match=r"^\[data\]\.token_dir: .*would be replaced") as caught:
        make_data(own, prepare_tokenizer(data, config), tmp_path / "tokens")
    assert len(caught.value.lines) == 1
    assert path.read_bytes() == Path(data.corpus).read_bytes()


def test_a_corpus_that_a_tokenizer_would_replace_is_refused(road, tmp_path):
    data, config = road
    (tmp_path / "tok").mkdir()
    (tmp_path / "tok" / "merges.txt").write_text("the cat sat on the mat " * 100)
    (tmp_path / "link.txt").symlink_to(tmp_path / "tok" / "merges.txt")
    own = dataclasses.replace(config, tokenizer_dir=str(tmp_path / "tok"))
    for corpus in ("tok/merges.txt", "link.txt"):
        named = dataclasses.replace(data, corpus=str(tmp_path / corpus))
        with pytest.raises(ConfigError, match=r"^\[tokenizer\]\.tokenizer_dir: .*would be replaced"):
            prepare_tokenizer(named, own)
    assert (tmp_path / "tok" / "merges.txt").read_text() == "the cat sat on the mat " * 100
