import dataclasses
import gzip
import json
import os
import shutil
import threading
import time
from pathlib import Path

import pytest

import transformerlm.data
from tests.outside_data import outside_data
from tests.tokenizer.families import FAMILIES
from transformerlm.config import CorpusConfig, DataConfig, TokenizerConfig
from transformerlm.data import (
    TokenFile,
    build_lock,
    corpus,
    file_record,
    make_data,
    prepare,
    prepare_data,
    prepare_tokenizer,
)
from transformerlm.data.build import TooFewTokensError
from transformerlm.data.build_journal import UNFINISHED, Progress
from transformerlm.data.corpus import find_corpora
from transformerlm.data.file_record import FORMAT_VERSION
from transformerlm.data.listing import RECORD_FILE
from transformerlm.data.prepare import fill_placeholders, training_texts
from transformerlm.data.sidecar import Sidecar
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


HIDDEN = (".lock", RECORD_FILE)


def content_of(folder):
    """Everything in it but the locks and the record of the corpus' files."""
    files = [path for path in sorted(Path(folder).rglob("*")) if path.is_file() and path.name not in HIDDEN]
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
        (
            {"vocab_size": 310},
            r"\[tokenizer\].vocab_size: expected 300, .*tok was made, got 310; leave it out",
        ),
        ({"pattern": r"\S+|\s+"}, r"\[tokenizer\].pattern: "),
        ({"special_tokens": (EOT, "<x>")}, r"\[tokenizer\].special_tokens: "),
    ],
)
def test_another_tokenizer_than_the_config_sets_is_refused(road, change, line):
    data, config = road
    prepare_tokenizer(data, config)
    before = content_of(Path(data.corpus).parent)
    with pytest.raises(DataError, match=line) as caught:
        prepare_tokenizer(data, dataclasses.replace(config, **change))
    assert len(caught.value.lines) == 1
    assert content_of(Path(data.corpus).parent) == before


def test_a_tokenizer_of_a_sample_encodes_everything(road, tmp_path):
    data, config = road
    sample = dataclasses.replace(data, corpus=str(tmp_path / "sample.txt"), validation_fraction=0.2)
    Path(sample.corpus).write_text("story 1: the cat sat on the mat. " * 99)
    tok = str(tmp_path / "tok")
    made = prepare_tokenizer(sample, dataclasses.replace(config, tokenizer_dir=tok, pattern=r"\w+|\W"))
    listener = Listener()
    unset = TokenizerConfig(tokenizer_dir=tok)  # neither the size nor the pattern
    reused = prepare_tokenizer(data, unset, listener)
    tokens = prepare_data(data, unset, reused)
    assert reused.fingerprint == made.fingerprint == tokens.train.fingerprint
    (line,) = listener.messages
    assert line.startswith(f"tokenizer {tok}: reused ({made.vocab_size} ids); made with ")
    for had in (
        *(f'[data].corpus = "{sample.corpus}"'[:60], "[data].validation_fraction = 0.2"),
        '[tokenizer].pattern = "\\w+|\\W"',
    ):
        assert had in line
    assert "vocab_size" not in line


def test_a_tokenizer_of_a_text_that_was_too_short_says_how_to_make_another(road):
    data, config = road
    prepare_tokenizer(data, TokenizerConfig(tokenizer_dir=config.tokenizer_dir))
    with Path(data.corpus).open("a") as file:
        file.write(" and more" * 1000)
    listener = Listener()
    prepare_tokenizer(data, TokenizerConfig(tokenizer_dir=config.tokenizer_dir), listener)
    assert "fewer than asked for: remove the folder to have it made of a longer text" in listener.messages[0]


def test_a_tokenizer_of_a_text_that_has_changed_says_so(road):
    data, config = road
    corpus = CorpusConfig(corpus=data.corpus)
    config = dataclasses.replace(config, vocab_size=280)
    prepare_tokenizer(corpus, config)
    with Path(data.corpus).open("a") as file:
        file.write("more")
    listener = Listener()
    prepare_tokenizer(corpus, config, listener)
    assert "reused (280 ids); made with files of [data].corpus = " in listener.messages[0]


def test_a_separator_that_the_tokenizer_will_lack_is_found_before_it_is_trained(road, tmp_path):
    data, config = road
    no_special = dataclasses.replace(config, special_tokens=())
    with pytest.raises(DataError, match=r"\[data\].document_separator: expected one of .* got '<\|endoftext"):
        prepare_tokenizer(data, no_special)
    assert not Path(fill_placeholders(config.tokenizer_dir, data)).exists()
    assert prepare_tokenizer(CorpusConfig(corpus=data.corpus), no_special).special_token_ids == {}


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
    assert "--data.on_change=remake makes them anew" in caught.value.lines[1]
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
    with pytest.raises(DataError, match=r"files of \[data\].corpus: 1 file, .* -> 1 file, "):
        prepare_data(data, config, tokenizer)


def made_and_aged(data, config):
    """The tokenizer of a corpus whose token files are made, and whose files are some seconds old."""
    paths = [Path(data.corpus)] if Path(data.corpus).is_file() else list(Path(data.corpus).iterdir())
    for path in paths:
        os.utime(path, ns=(0, path.stat().st_mtime_ns - 10**10))
    tokenizer = prepare_tokenizer(data, config)
    prepare_data(data, config, tokenizer)
    return tokenizer


@pytest.fixture
def later(monkeypatch):
    """Seconds do not have to pass: no time counts as so recent that it may be that of two changes."""
    monkeypatch.setattr(file_record, "CLOCK_NANOSECONDS", 0)


@pytest.fixture
def files_read(monkeypatch):
    """The paths of files whose content is read to be compared."""
    paths, digest = [], file_record._digest

    def watched(source, bar):
        paths.append(Path(source.path).name)
        return digest(source, bar)

    monkeypatch.setattr(file_record, "_digest", watched)
    return paths


@pytest.fixture
def folder(road, tmp_path):
    """A corpus of twenty files."""
    data, config = road
    (tmp_path / "texts").mkdir()
    for number in range(20):
        (tmp_path / "texts" / f"{number:02}.txt").write_text(f"text {number}: the cat sat on the mat. " * 9)
    own = dataclasses.replace(data, corpus=str(tmp_path / "texts"), token_dir=str(tmp_path / "made"))
    return own, dataclasses.replace(config, tokenizer_dir=str(tmp_path / "made" / "tok"))


@pytest.mark.parametrize("is_recent", [True, False])
def test_a_file_changed_in_place_at_the_same_size_and_time_is_noticed(folder, is_recent, request):
    data, config = folder
    if not is_recent:
        request.getfixturevalue("later")
    tokenizer = made_and_aged(data, config)
    path = Path(data.corpus) / "07.txt"
    times = path.stat()
    path.write_text(path.read_text().replace("cat", "dog"))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    for _ in range(2):
        with pytest.raises(DataError) as caught:
            prepare_data(data, config, tokenizer)
        content, changes, advice = caught.value.lines
        assert ": content of [data].corpus: " in content
        assert changes == "[data].corpus: 1 with other content (07.txt)"
        assert "--data.on_change=remake" in advice
    path.write_text(path.read_text().replace("dog", "cat"))
    assert prepare_data(data, config, tokenizer).train.num_tokens > 100


def test_only_files_whose_times_have_changed_are_read(folder, later, files_read):
    data, config = folder
    tokenizer = made_and_aged(data, config)
    assert len(files_read) == 20
    files_read.clear()
    prepare_data(data, config, tokenizer)
    assert files_read == []
    for name in ("03.txt", "11.txt"):
        path = Path(data.corpus) / name
        path.write_bytes(path.read_bytes())  # as after a checkout, or a copy
    prepare_data(data, config, tokenizer)
    assert files_read == ["03.txt", "11.txt"]
    prepare_data(data, config, tokenizer)  # the new times are recorded
    assert files_read == ["03.txt", "11.txt"]


def test_a_start_opens_no_file_of_a_corpus_that_has_not_changed(folder, later, monkeypatch):
    data, config = folder
    (Path(data.corpus) / "image").write_bytes(bytes(9))
    made_and_aged(data, config)

    def refuse(*arguments):
        raise AssertionError(arguments)

    monkeypatch.setattr(corpus, "recognise", refuse)
    prepare_data(data, config, prepare_tokenizer(data, config))


def test_what_has_come_and_gone_is_named_and_made_anew_where_that_is_asked_for(folder):
    data, config = folder
    tokenizer = made_and_aged(data, config)
    (Path(data.corpus) / "01.txt").unlink()
    (Path(data.corpus) / "02.txt").write_text("longer " * 100)
    for name in ("x", "y", "z", "zz"):
        (Path(data.corpus) / f"{name}.txt").write_text("new")
    with pytest.raises(DataError) as caught:
        prepare_data(data, config, tokenizer)
    _, changes, advice = caught.value.lines
    expected = "4 added (x.txt, y.txt, z.txt, ...), 1 removed (01.txt), 1 of another size (02.txt)"
    assert changes == f"[data].corpus: {expected}"
    assert advice.endswith(
        "--data.on_change=remake makes them anew, --data.token_dir=... takes another folder"
    )
    listener, remade = Listener(), dataclasses.replace(data, on_change="remake")
    made = prepare_data(remade, config, tokenizer, listener)
    assert listener.messages[-1].split(": ")[-1].startswith("made ")
    assert [expected in message for message in listener.messages] == [False, True, False]
    fresh = make_data(data, tokenizer, Path(data.corpus).parent / "fresh")
    assert (made.train.sha256, made.train.made_from) == (fresh.train.sha256, fresh.train.made_from)
    assert prepare_data(remade, config, tokenizer, listener).train.sha256 == made.train.sha256
    assert listener.messages[-1].split(": ")[-1].startswith("reused ")


def test_another_tokenizer_and_other_settings_are_made_anew_where_that_is_asked_for(road):
    data, config = road
    prepare_data(data, config, prepare_tokenizer(data, config))
    other = dataclasses.replace(config, tokenizer_dir=config.tokenizer_dir + "2", vocab_size=290)
    remade = dataclasses.replace(data, on_change="remake", validation_fraction=0.3)
    tokenizer = prepare_tokenizer(remade, other)
    made = prepare_data(remade, other, tokenizer)
    assert made.train.fingerprint == tokenizer.fingerprint
    assert made.train.made_from["[data].validation_fraction"] == 0.3


def test_one_file_of_another_origin_is_made_anew_too(road, tmp_path):
    data, config = road
    tokenizer = prepare_tokenizer(data, config)
    made = prepare_data(data, config, tokenizer)
    make_data(dataclasses.replace(data, validation_fraction=0.5), tokenizer, tmp_path / "other")
    for name in ("val.memmap", "val.memmap.json"):
        shutil.copy(tmp_path / "other" / name, made.val.path.with_name(name))
    with pytest.raises(DataError, match=r"val\.memmap: \[data\]\.validation_fraction: 0\.5 -> 0\.05"):
        prepare_data(data, config, tokenizer)
    again = prepare_data(dataclasses.replace(data, on_change="remake"), config, tokenizer)
    assert again.val.sha256 == made.val.sha256


def test_a_record_of_a_version_that_read_less_is_no_reason_to_go_on_doing_so(folder, later, monkeypatch):
    data, config = folder
    tokenizer = made_and_aged(data, config)
    record = Path(data.token_dir) / RECORD_FILE
    values = json.loads(record.read_bytes()) | {"format_version": 1}
    record.write_text(json.dumps(values))
    prepare_data(data, config, tokenizer)
    assert json.loads(record.read_bytes())["format_version"] == FORMAT_VERSION
    path = Path(data.corpus) / "more.txt.gz"
    path.write_bytes(gzip.compress(b"more"))
    status = path.stat()
    stamp = [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
    values["corpus"].append([path.name, *stamp, 0, "compressed", ""])
    record.write_text(json.dumps(values))
    with pytest.raises(DataError, match=r"1 added \(more\.txt\.gz\)|files of .*20 files.* -> 21 files"):
        prepare_data(data, config, tokenizer)


def damage_of(change):
    def damage(path):
        values = json.loads(path.read_bytes())
        change(values)
        path.write_text(json.dumps(values))

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        Path.unlink,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"[" * 10**5),
        lambda path: path.write_bytes(path.read_bytes()[:-3]),
        damage_of(lambda values: values.update(corpus={})),
        damage_of(lambda values: values.update(format_version=3)),
        damage_of(lambda values: values["corpus"].pop()),
        damage_of(lambda values: values["corpus"][3].pop()),
        damage_of(lambda values: values["corpus"][3].__setitem__(0, ["name"])),
        damage_of(lambda values: values["corpus"][3].__setitem__(4, "0")),
        damage_of(lambda values: values["corpus"][3].__setitem__(5, "jsonl")),
        damage_of(lambda values: values["corpus"][3].__setitem__(5, "binary")),
        damage_of(lambda values: values["corpus"][3].__setitem__(5, "nothing")),
        damage_of(lambda values: values["corpus"][3].__setitem__(6, "0" * 32)),
    ],
)
def test_the_record_of_files_can_be_lost_or_damaged(folder, later, damage):
    data, config = folder
    tokenizer = made_and_aged(data, config)
    record = Path(data.token_dir) / RECORD_FILE
    damage(record)
    prepare_data(data, config, tokenizer)
    assert prepare_data(data, config, tokenizer).train.num_tokens > 100


def test_a_record_that_cannot_be_written_is_no_error(folder):
    data, config = folder
    record = Path(data.token_dir) / RECORD_FILE
    (record / "in the way").mkdir(parents=True)
    tokenizer = made_and_aged(data, config)
    assert prepare_data(data, config, tokenizer).train.num_tokens > 100


def test_token_files_of_earlier_versions_are_compared_by_names_and_sizes(folder, files_read):
    data, config = folder
    tokenizer = made_and_aged(data, config)
    folder = Path(data.token_dir)
    (folder / RECORD_FILE).unlink()
    for name in ("train.memmap.json", "val.memmap.json"):
        sidecar = Sidecar.read(folder / name)
        origin = {key: value for key, value in sidecar.made_from.items() if not key.startswith("content of")}
        dataclasses.replace(sidecar, made_from=origin).write(folder / name)
    files_read.clear()
    prepare_data(data, config, tokenizer)
    assert files_read == []
    (Path(data.corpus) / "new.txt").write_text("x")
    with pytest.raises(DataError, match=r"files of \[data\]\.corpus: 20 files, .* -> 21 files"):
        prepare_data(data, config, tokenizer)


def test_a_file_that_is_written_to_while_it_is_read_is_an_error(folder, monkeypatch):
    data, config = folder
    tokenizer = prepare_tokenizer(data, config)
    path = Path(data.corpus) / "05.txt"

    class Writer(Listener):
        def bar(self, total, unit, description):
            path.write_text(path.read_text().replace("cat", "dog"))
            return super().bar(total, unit, description)

    with pytest.raises(DataError, match=r"05\.txt: has changed while it was being read; start again"):
        prepare_data(data, config, tokenizer, Writer())
    assert (
        content_of(Path(data.token_dir)).keys()
        == content_of(Path(fill_placeholders(config.tokenizer_dir, data))).keys()
    )


def test_too_few_tokens_are_told_before_any_file_is_made(road):
    data, config = road
    tokenizer = prepare_tokenizer(data, config)
    with pytest.raises(TooFewTokensError) as caught:
        prepare_data(data, config, tokenizer, min_tokens=10**6)
    assert 100 < caught.value.num_tokens < 10**6
    made = prepare_data(data, config, tokenizer, min_tokens=caught.value.num_tokens)
    assert made.train.num_tokens == caught.value.num_tokens


@pytest.mark.parametrize("is_kept", [True, False])
def test_special_tokens_in_lines_of_json_are_a_setting_of_the_token_files(road, tmp_path, is_kept):
    data, config = road
    path = tmp_path / "lines.jsonl"
    path.write_text("".join(json.dumps({"text": f"say {EOT} now {i}"}) + "\n" for i in range(40)))
    own = dataclasses.replace(data, corpus=str(path), jsonl_special_tokens=is_kept)
    tokenizer = prepare_tokenizer(own, config)
    made = prepare_data(own, config, tokenizer)
    ends = sum((file.tokens == tokenizer.special_token_ids[EOT]).sum() for file in (made.train, made.val))
    assert ends == (80 if is_kept else 40)
    assert prepare_data(own, config, tokenizer).train.sha256 == made.train.sha256
    other = dataclasses.replace(own, jsonl_special_tokens=not is_kept)
    what = f"jsonl_special_tokens: {is_kept} -> {not is_kept}"
    with pytest.raises(DataError, match=what):
        prepare_data(other, config, tokenizer)


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
    assert "no such file; going on with what was made from it before" in listener.messages[1]
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


@pytest.mark.parametrize(
    ("family", "warning"),
    [
        ("SmolLM 2", "no tokens for the bytes 04 06 13 14 16 1d f1 f2 (hexadecimal), which are left out"),
        ("Pythia", None),
    ],
)
def test_bytes_that_a_tokenizer_has_no_tokens_for_are_named(road, tmp_path, family, warning):
    data, config = road
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "tokenizer.json").write_text(json.dumps(FAMILIES[family]()))
    listener = Listener()
    prepare_tokenizer(data, dataclasses.replace(config, tokenizer_dir=str(tmp_path / "others")), listener)
    assert [warning in line for line in listener.messages if "warning" in line] == [True] * bool(warning)


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
    own = dataclasses.replace(data, corpus=str(folder), token_dir=str(tmp_path / "made"))
    config = dataclasses.replace(config, tokenizer_dir=str(tmp_path / "tok"))
    prepare_data(own, config, prepare_tokenizer(own, config, listener), listener)
    lines = [message for message in listener.messages if "not read" in message]
    assert [line.split(": ", 1)[1].split(";")[0] for line in lines] == [
        "not read: hidden: 1 (.c)",
        "not read: binary: 1 (b.bin)",
    ]
    # A tokenizer alone, without token files to come.
    listener, alone = Listener(), CorpusConfig(corpus=str(folder))
    prepare_tokenizer(alone, dataclasses.replace(config, tokenizer_dir=str(tmp_path / "alone")), listener)
    assert lines == listener.messages[:2]
    (folder / "a.txt").write_text(" \n")
    with pytest.raises(DataError, match=r"nothing but white space\n.*not read: hidden.*\n.*not read: binary"):
        prepare_tokenizer(alone, dataclasses.replace(config, tokenizer_dir=str(tmp_path / "blank")))


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
    waiter.join(300)
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
    for name in ("tok/merges.txt", "link.txt"):
        named = dataclasses.replace(data, corpus=str(tmp_path / name))
        with pytest.raises(ConfigError, match=r"^\[tokenizer\]\.tokenizer_dir: .*would be replaced"):
            prepare_tokenizer(named, own)
    assert (tmp_path / "tok" / "merges.txt").read_text() == "the cat sat on the mat " * 100


def test_no_tokenizer_is_made_beside_one_of_another_format(road, tmp_path):
    data, config = road
    (tmp_path / "qwen").mkdir()
    (tmp_path / "qwen" / "qwen.tiktoken").write_text("IQ== 0")
    with pytest.raises(DataError, match=r"qwen: expected tokenizer\.json, .* got qwen\.tiktoken"):
        prepare_tokenizer(data, dataclasses.replace(config, tokenizer_dir=str(tmp_path / "qwen")))
    assert len(list((tmp_path / "qwen").iterdir())) == 1
