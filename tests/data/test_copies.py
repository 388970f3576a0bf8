import random

import numpy as np
import pytest

from tests.data import copies_oracle
from tests.data.copies_oracle import edited, random_text, write_jsonl
from transformerlm.config import CorpusConfig
from transformerlm.data.copies import NEAR, Components, find_copies
from transformerlm.data.corpus import find_corpora
from transformerlm.data.division import Division
from transformerlm.data.scan import character_cut, scan


def scan_of(path, chunk_bytes=2**19, *, with_signatures=True, **settings):
    config = CorpusConfig(corpus=str(path), validation_fraction=0, **settings)
    corpora = find_corpora(config)
    division = Division(config, corpora, character_cut, chunk_bytes)
    return scan(division, with_signatures=with_signatures)


def text_of(found, document):
    return b"".join(found.parts(document)).decode()


def test_planted_copies_are_counted_exactly(tmp_path):
    rng = random.Random(1)
    texts = [random_text(rng, 30) for _ in range(200)]
    (tmp_path / "a.txt").write_text("<|endoftext|>".join(texts))
    copies = [texts[number] for number in (3, 3, 50, 120)]
    write_jsonl(tmp_path / "b.jsonl", [*copies, "short", "short", "short "])
    for chunk_bytes in (100, 2**19):  # with the smaller ones every document comes in parts
        found = find_copies(scan_of(tmp_path, chunk_bytes), near=True)
        assert found.exact == [[3, 200, 201], [50, 202], [120, 203], [204, 205]]
        assert found.near == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [3000, pytest.param(10_000, marks=pytest.mark.endurance)])
def test_recall_of_near_copies_among_documents_against_all_pairs(number, tmp_path):
    rng, num_first = random.Random(2), number * 4 // 5
    texts = [random_text(rng, rng.randrange(12, 24)) for _ in range(num_first)]
    texts += [edited(rng, texts[rng.randrange(num_first)], rng.randrange(1, 3)) for _ in range(number // 5)]
    rng.shuffle(texts)
    texts = list(dict.fromkeys(texts))
    write_jsonl(tmp_path / "texts.jsonl", texts)
    scanned = scan_of(tmp_path / "texts.jsonl")
    found = find_copies(scanned, near=True)
    expected = copies_oracle.near_pairs(texts, NEAR)
    assert len(expected) > 0.05 * number
    for link in found.links:  # whatever is reported is near
        pair = tuple(sorted((link.document, link.partner)))
        assert link.similarity == expected[pair]
    cluster_of = {document: number for number, own in enumerate(found.near) for document in own}
    missed = [pair for pair in expected if cluster_of.get(pair[0], -1) != cluster_of.get(pair[1], -2)]
    assert len(missed) <= 0.005 * len(expected)
    assert not [pair for pair in missed if expected[pair] >= 0.85]


def test_clusters_are_the_components_of_all_near_pairs(tmp_path):
    rng = random.Random(3)
    texts = [random_text(rng, 60) for _ in range(30)]
    for number in range(60):  # copies of copies: the ends of a chain need not be near
        texts.append(edited(rng, texts[number % 30 if number < 30 else -30], 1))
    texts += ["", *("漢字かな交じりの長い文章に、少しだけ違うところがある例" * 3 + end for end in "一二")]
    write_jsonl(tmp_path / "texts.jsonl", [text for text in texts if text])
    found = find_copies(scan_of(tmp_path / "texts.jsonl"), near=True)
    pairs = copies_oracle.near_pairs([text for text in texts if text], NEAR)
    assert [tuple(own) for own in found.near] == copies_oracle.clusters(pairs)
    assert len(found.links) == sum(len(own) - 1 for own in found.near)


@pytest.mark.parametrize("number", [2, 300])
def test_many_documents_from_one_template_are_one_cluster(number, tmp_path):
    template = random_text(random.Random(4), 200)
    write_jsonl(tmp_path / "texts.jsonl", [f"{template} number {n}" for n in range(number)])
    found = find_copies(scan_of(tmp_path / "texts.jsonl"), near=True)
    assert [list(own) for own in found.near] == [list(range(number))]


def test_a_copy_that_is_wrapped_otherwise_is_near(tmp_path):
    text = random_text(random.Random(5), 100)
    (tmp_path / "a.txt").write_text(text)
    (tmp_path / "b.txt").write_text(text.replace(" ", "\n   "))
    found = find_copies(scan_of(tmp_path), near=True)
    assert [(link.document, link.partner, link.similarity) for link in found.links] == [(1, 0, 1.0)]
    assert found.exact == []


@pytest.mark.parametrize("with_signatures", [True, False])
def test_a_scan_does_not_depend_on_workers_or_chunks(with_signatures, tmp_path, monkeypatch):
    from transformerlm.data import scan as module

    rng = random.Random(6)
    (tmp_path / "a.txt").write_text("<|endoftext|>".join(random_text(rng, n) for n in (3, 5000, 1, 200, 800)))
    (tmp_path / "b.txt").write_text("é漢😀 " * 4000)
    write_jsonl(tmp_path / "c.jsonl", [random_text(rng, n) for n in (10, 3000, 20)])
    monkeypatch.setattr(module, "WORKER_BYTES", 1)
    first = scan_of(tmp_path, with_signatures=with_signatures, num_workers=1)
    assert len(first) == 9
    for num_workers, chunk_bytes in ((1, 500), (3, 500), (2, 40_000)):
        other = scan_of(tmp_path, chunk_bytes, with_signatures=with_signatures, num_workers=num_workers)
        for name in ("num_bytes", "num_shingles", "is_validation", "digests", "signatures"):
            np.testing.assert_array_equal(getattr(other, name), getattr(first, name))
        assert [text_of(other, n) for n in range(9)] == [text_of(first, n) for n in range(9)]


def test_components_are_named_by_their_first():
    components = Components()
    for pair in ((5, 7), (2, 9), (9, 7), (4, 3)):
        components.join(*pair)
    assert components.clusters() == [[2, 5, 7, 9], [3, 4]]
    assert [components.first(one) for one in (9, 7, 4, 8)] == [2, 2, 3, 8]
