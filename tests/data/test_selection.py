"""Copies that are left out or kept on one side, compared with the decision made by hand."""

import json
import random
import shutil

import numpy as np
import pytest

from tests.data.copies_oracle import edited, random_text, similarity, write_jsonl
from transformerlm.config import CorpusConfig, DataConfig, TokenizerConfig
from transformerlm.data import selection_cache
from transformerlm.data.build import make_data
from transformerlm.data.copies import NEAR
from transformerlm.data.corpus import find_corpora
from transformerlm.data.division import Division
from transformerlm.data.documents import TRAIN, VAL, split_by_content
from transformerlm.data.prepare import prepare_data, training_texts
from transformerlm.data.selection import DECISION_KEY, METHOD_KEY, Selection
from transformerlm.errors import DataError
from transformerlm.evaluation.text import Text
from transformerlm.progress import SilentReporter
from transformerlm.tokenizer import Pretokenizer, Tokenizer

EOT = "<|endoftext|>"
SAFE_CUT = Pretokenizer(special_tokens=[EOT]).safe_cut


@pytest.fixture(scope="module")
def texts():
    """Texts with exact and near copies, some of them on the other side of the split, and one long text."""
    rng = random.Random(7)
    found = [random_text(rng, rng.randrange(25, 50)) for _ in range(60)]
    found += [found[number] for number in (1, 5, 5, 20)]
    for number in (*range(10, 40), 12, 12):
        found.append(edited(rng, found[number], 1))
    long = random_text(rng, 400)
    found += ["tiny", long, "tiny", edited(rng, long, 3)]
    rng.shuffle(found)
    return found


@pytest.fixture(scope="module")
def corpus(texts, tmp_path_factory):
    """The texts, in the order of their names: a file of marked documents, JSON lines, single files."""
    folder = tmp_path_factory.mktemp("copies")
    (folder / "a.txt").write_text(EOT.join(texts[:40]))
    write_jsonl(folder / "b.jsonl", texts[40:80])
    for number, text in enumerate(texts[80:]):
        (folder / f"c{number:02}.txt").write_text(text)
    return folder


def clusters_by_hand(texts, *, near):
    """Connected components of all pairs of texts that are near, or the same."""
    component = {number: {number} for number in range(len(texts))}
    for one in range(len(texts)):
        for other in range(one):
            if texts[one] == texts[other] or (near and similarity(texts[one], texts[other]) >= NEAR):
                joined = component[one] | component[other]
                component |= dict.fromkeys(joined, joined)
    return {min(own): sorted(own) for own in component.values() if len(own) > 1}.values()


def documents_of_files(data, tokenizer):
    found = {}
    for split, file in (("train", data.train), ("val", data.val)):
        found[split] = tokenizer.decode(np.array(file.tokens)).split(EOT)[:-1] if file else []
        assert len(found[split]) == (file.num_documents if file else 0)
    return found


def plain_tokenizer():
    vocab = {number: bytes([number]) for number in range(256)}
    return Tokenizer(vocab, [], [EOT])


def build(corpus, folder, chunk_bytes=2**19, **settings):
    config = CorpusConfig(corpus=str(corpus), **{"validation_fraction": 0.3, **settings})
    return make_data(config, plain_tokenizer(), folder, chunk_bytes=chunk_bytes)


@pytest.mark.parametrize("chunk_bytes", [300, 2**19])
def test_duplicates_are_dropped_but_the_first(chunk_bytes, corpus, texts, tmp_path):
    data = build(corpus, tmp_path, chunk_bytes, duplicates="drop")
    found = documents_of_files(data, plain_tokenizer())
    unique = list(dict.fromkeys(texts))
    assert found == {
        split: [text for text in unique if split_by_content(text, 0.3) == split] for split in (TRAIN, VAL)
    }
    assert data.train.made_from["[data].duplicates"] == "drop"
    record = data.train.made_from[DECISION_KEY]
    assert record["documents left out"] == len(texts) - len(unique) == 5
    assert (record["exact clusters"], record["documents moved"]) == (4, 0)


@pytest.mark.parametrize("chunk_bytes", [300, 2**19])
def test_near_duplicates_are_dropped_but_the_first(chunk_bytes, corpus, texts, tmp_path):
    data = build(corpus, tmp_path, chunk_bytes, near_duplicates="drop")
    found = documents_of_files(data, plain_tokenizer())
    dropped = {number for own in clusters_by_hand(texts, near=True) for number in own[1:]}
    kept = [text for number, text in enumerate(texts) if number not in dropped]
    assert len(dropped) > 30
    assert sorted(found[TRAIN] + found[VAL]) == sorted(kept)
    assert all(split_by_content(text, 0.3) == split for split, own in found.items() for text in own)


@pytest.mark.parametrize("chunk_bytes", [300, 2**19])
def test_a_cluster_stays_together_on_one_side(chunk_bytes, corpus, texts, tmp_path):
    plain = documents_of_files(build(corpus, tmp_path / "plain"), plain_tokenizer())
    data = build(corpus, tmp_path, chunk_bytes, near_duplicates="together")
    found = documents_of_files(data, plain_tokenizer())
    assert sorted(found[TRAIN] + found[VAL]) == sorted(texts)
    sides = {text: split for split, own in found.items() for text in own}
    clusters = [{texts[number] for number in own} for own in clusters_by_hand(texts, near=True)]
    assert all(len({sides[text] for text in own}) == 1 for own in clusters)
    before = {text: split for split, own in plain.items() for text in own}
    assert any(len({before[text] for text in own}) == 2 for own in clusters)
    moved = [text for text in texts if sides[text] != before[text]]
    assert data.train.made_from[DECISION_KEY]["documents moved"] == len(moved) > 0
    assert all(any(text in own for own in clusters) for text in moved)


@pytest.mark.parametrize(
    "settings", [{"duplicates": "drop", "near_duplicates": "together"}, {"near_duplicates": "drop"}]
)
def test_chunks_and_workers_change_no_byte(settings, corpus, tmp_path, monkeypatch):
    from transformerlm.data import build as building
    from transformerlm.data import scan

    monkeypatch.setattr(building, "WORKER_BYTES", 1)
    monkeypatch.setattr(scan, "WORKER_BYTES", 1)
    contents = []
    for number, (chunk_bytes, num_workers) in enumerate(((2**19, 1), (300, 1), (700, 2))):
        folder = tmp_path / str(number)
        build(corpus, folder, chunk_bytes, num_workers=num_workers, **settings)
        names = ("train.memmap", "val.memmap", "train.memmap.json", "val.memmap.json")
        contents.append([(folder / name).read_bytes() for name in names])
    assert contents[0] == contents[1] == contents[2]


def test_the_order_of_files_changes_no_side(corpus, texts, tmp_path):
    """The same texts in other files, in another order: each is on the side where it was."""
    (tmp_path / "again").mkdir()
    shuffled = random.Random(8).sample(texts, len(texts))
    write_jsonl(tmp_path / "again" / "all.jsonl", shuffled)
    sides, records = [], []
    for number, path in enumerate((corpus, tmp_path / "again")):
        data = build(path, tmp_path / str(number), near_duplicates="together")
        sides.append(
            {split: sorted(own) for split, own in documents_of_files(data, plain_tokenizer()).items()}
        )
        records.append(data.train.made_from[DECISION_KEY])
    assert sides[0] == sides[1]
    assert records[0] == records[1]


@pytest.mark.parametrize("near_duplicates", ["together", "drop"])
def test_validation_text_that_is_given_stays_and_its_copies_in_training_go(near_duplicates, texts, tmp_path):
    rng = random.Random(9)
    held_out = [*texts[:10], "another text that is only here"]
    copies = [edited(rng, text, 1) for text in texts[:5]]
    write_jsonl(tmp_path / "train.jsonl", ["one that has no copy at all", *copies, texts[3]])
    write_jsonl(tmp_path / "val.jsonl", held_out)
    data = build(
        tmp_path / "train.jsonl",
        tmp_path / "d",
        validation_corpus=str(tmp_path / "val.jsonl"),
        near_duplicates=near_duplicates,
    )
    found = documents_of_files(data, plain_tokenizer())
    assert found[TRAIN][0] == "one that has no copy at all"
    for text in held_out:
        assert all(similarity(text, other) < NEAR for other in found[TRAIN])
    if near_duplicates == "together":
        assert found[VAL] == held_out
    else:
        assert found[VAL][0] == held_out[0]


def test_all_that_read_the_corpus_read_the_same_documents(corpus, texts, tmp_path):
    settings = {"validation_fraction": 0.3, "duplicates": "drop", "near_duplicates": "together"}
    config = CorpusConfig(corpus=str(corpus), **settings)
    found = documents_of_files(build(corpus, tmp_path, **settings), plain_tokenizer())
    assert "".join(training_texts(config, find_corpora(config), SAFE_CUT)) == "".join(found[TRAIN])
    parts = b"".join(part.utf8 for part in Text.find(config, None).parts(SAFE_CUT))
    assert parts.decode() == "".join(found[VAL])


class Listener(SilentReporter):
    """What was said, and which bars were shown; the bar named `stop_in` is interrupted."""

    def __init__(self, stop_in=None):
        self.said, self.bars, self.stop_in = [], [], stop_in

    def say(self, message):
        self.said.append(message)

    def bar(self, total, unit, description):
        self.bars.append(description)
        found = super().bar(total, unit, description)
        if description == self.stop_in:
            found.update = self._stop
        return found

    def _stop(self, amount):
        if self.said.count("update") > 4:
            raise KeyboardInterrupt
        self.said.append("update")


def data_config(corpus, tmp_path, **settings):
    return DataConfig(corpus=str(corpus), token_dir=str(tmp_path / "d"), validation_fraction=0.3, **settings)


def test_the_decision_is_recorded_and_not_made_again(corpus, tmp_path):
    first, again = Listener(), Listener()
    config = data_config(corpus, tmp_path, near_duplicates="together")
    made = prepare_data(config, TokenizerConfig(), plain_tokenizer(), first)
    made_record = made.train.made_from[DECISION_KEY]
    assert "looking for copies" in first.bars
    moved = made_record["documents moved"]
    assert any(f"near clusters; 0 left out, {moved} moved to the other side" in line for line in first.said)
    assert made.train.made_from[METHOD_KEY].startswith("MinHash 1")
    assert json.loads((tmp_path / "d/val.memmap.json").read_text())["made_from"] == made.train.made_from
    prepare_data(config, TokenizerConfig(), plain_tokenizer(), again)
    assert "looking for copies" not in again.bars
    assert any("reused" in line for line in again.said)


def test_another_setting_or_a_changed_corpus_is_noticed(corpus, tmp_path):
    copy = tmp_path / "texts"
    copy.mkdir()
    for path in corpus.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    prepare_data(data_config(copy, tmp_path, duplicates="drop"), TokenizerConfig(), plain_tokenizer())
    for settings in ({}, {"duplicates": "drop", "near_duplicates": "drop"}):
        with pytest.raises(DataError, match="duplicates"):
            prepare_data(data_config(copy, tmp_path, **settings), TokenizerConfig(), plain_tokenizer())
    (copy / "new.txt").write_text("a new text")
    with pytest.raises(DataError, match=r"1 added \(new.txt\)"):
        prepare_data(data_config(copy, tmp_path, duplicates="drop"), TokenizerConfig(), plain_tokenizer())


def test_an_interrupted_build_goes_on_to_the_same_bytes(corpus, tmp_path):
    config = CorpusConfig(corpus=str(corpus), validation_fraction=0.3, near_duplicates="drop", num_workers=1)
    whole = make_data(config, plain_tokenizer(), tmp_path / "whole", chunk_bytes=300)
    sizes = {"chunk_bytes": 300, "commit_bytes": 500}
    with pytest.raises(KeyboardInterrupt):
        make_data(config, plain_tokenizer(), tmp_path / "d", Listener("encoding"), **sizes)
    listener = Listener()
    made = make_data(config, plain_tokenizer(), tmp_path / "d", listener, **sizes)
    assert any("going on after" in line for line in listener.said)
    assert made.train.path.read_bytes() == whole.train.path.read_bytes()
    assert made.val.path.read_bytes() == whole.val.path.read_bytes()


def test_without_the_settings_nothing_is_read_and_nothing_recorded(corpus, tmp_path):
    config = CorpusConfig(corpus=str(corpus))
    listener = Listener()
    assert Selection.of(Division(config, find_corpora(config), SAFE_CUT), listener) == Selection()
    assert listener.bars == []
    made = build(corpus, tmp_path)
    assert not [key for key in made.train.made_from if "duplicates" in key or "copies" in key]


def test_the_decision_about_a_large_text_is_kept_until_a_file_changes(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(selection_cache, "MIN_BYTES", 1)
    monkeypatch.setattr(selection_cache, "MAX_KEPT", 2)
    monkeypatch.setenv("TRANSFORMERLM_CACHE_DIR", str(tmp_path / "cache"))
    folder = tmp_path / "texts"
    shutil.copytree(corpus, folder)
    path = folder / "c00.txt"

    def select(expected, **settings):
        listener = Listener()
        config = CorpusConfig(corpus=str(folder), **{"near_duplicates": "drop", **settings})
        found = Selection.of(Division(config, find_corpora(config), SAFE_CUT), listener)
        assert len(listener.bars) == expected
        return found

    first = select(1)
    assert select(1) == first  # so soon after they were written, the files' times tell nothing
    assert not (tmp_path / "cache").exists()
    monkeypatch.setattr(selection_cache, "CLOCK_NANOSECONDS", 0)
    assert [select(1), select(0), select(0)] == [first] * 3
    select(1, near_duplicates="together")
    path.write_text(path.read_text()[::-1])
    assert select(1) != first
    assert len(list((tmp_path / "cache" / "copies").iterdir())) == 2
    for kept in (tmp_path / "cache" / "copies").iterdir():
        kept.write_bytes(kept.read_bytes()[:-9])
    select(1)
