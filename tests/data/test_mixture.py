"""Tokenizer and token files of several corpora."""

import dataclasses

import pytest

from tests.mixtures import NAMES, data_config, write_corpora
from transformerlm.config import DataConfig, MixtureConfig, TokenizerConfig
from transformerlm.data import TokenData, TokenGroup, prepare_data, prepare_tokenizer
from transformerlm.data.build import TooFewTokensError
from transformerlm.data.corpus import find_corpora, settings
from transformerlm.data.mixture import corpora_of, pass_size, shares_of
from transformerlm.data.verify import verify_token_files, verify_tokenizer
from transformerlm.errors import ConfigError, DataError, Key, Problem
from transformerlm.schema import field_docs, to_dict


@pytest.fixture
def corpora(tmp_path):
    write_corpora(tmp_path)
    return tmp_path


def tokenizer_config(folder, name="tokenizer"):
    return TokenizerConfig(vocab_size=320, tokenizer_dir=str(folder / "data" / name))


def prepared(config, folder):
    own = tokenizer_config(folder)
    tokenizer = prepare_tokenizer(config, own)
    return tokenizer, prepare_data(config, own, tokenizer)


def test_each_corpus_has_the_token_files_that_it_has_alone(corpora):
    config = data_config(corpora)
    tokenizer, data = prepared(config, corpora)
    assert isinstance(data.train, TokenGroup)
    assert tuple(data.train.files) == tuple(data.val.files) == NAMES
    for part in config.mixture:
        alone = DataConfig(corpus=part.path, token_dir=str(corpora / "alone" / part.own_name))
        prepare_data(alone, tokenizer_config(corpora), tokenizer)
        for name in ("train.memmap", "train.memmap.json", "val.memmap", "val.memmap.json"):
            own = corpora / "data" / part.own_name / name
            assert own.read_bytes() == (corpora / "alone" / part.own_name / name).read_bytes()


def test_numbers_of_a_group_are_sums(corpora):
    _, data = prepared(data_config(corpora), corpora)
    files = data.train.files.values()
    for number in ("num_tokens", "num_bytes", "num_documents"):
        assert getattr(data.train, number) == sum(getattr(file, number) for file in files) > 0
    assert data.train.fingerprint == data.val.fingerprint
    again = TokenData.open(data_config(corpora), corpora / "data")
    assert again.train.sha256 == data.train.sha256 != data.val.sha256
    assert len(data.train.made_from) == sum(len(file.made_from) for file in files)


def test_the_tokenizer_is_learned_from_all_text_alike(corpora, tmp_path):
    """It is the one of a folder with all files, whatever the weights are."""
    tokenizer, _ = prepared(data_config(corpora), corpora)
    other = data_config(corpora, books={"passes": 7}, notes={"weight": 1}, tale={"weight": 9})
    assert prepare_tokenizer(other, tokenizer_config(corpora, "other")).fingerprint == tokenizer.fingerprint
    # Nothing is held out here, so that the split of one corpus, or of three, is the same.
    whole = dataclasses.replace(data_config(corpora), validation_fraction=0.0)
    together = DataConfig(corpus=str(corpora), include=("*.txt", "*.jsonl"), validation_fraction=0.0)
    mixed = prepare_tokenizer(whole, tokenizer_config(corpora, "mixed"))
    assert mixed.fingerprint == prepare_tokenizer(together, tokenizer_config(tmp_path, "one")).fingerprint


def test_files_are_reused_and_do_not_depend_on_the_weights(corpora):
    _, before = prepared(data_config(corpora), corpora)
    times = {path: path.stat().st_mtime_ns for path in (corpora / "data").rglob("*.memmap")}
    other = data_config(corpora, books={"weight": 5}, notes={"passes": 2}, tale={"weight": 1})
    _, after = prepared(other, corpora)
    assert after.train.sha256 == before.train.sha256
    assert times == {path: path.stat().st_mtime_ns for path in (corpora / "data").rglob("*.memmap")}


def test_changed_text_of_one_corpus_is_found(corpora):
    prepared(data_config(corpora), corpora)
    (corpora / "tale.txt").write_text("Another tale.\n" * 60)
    with pytest.raises(DataError, match=r"data/tale/train\.memmap"):
        prepared(data_config(corpora), corpora)


def test_both_can_be_verified(corpora):
    config = data_config(corpora)
    tokenizer, data = prepared(config, corpora)
    verify_tokenizer(config, tokenizer_config(corpora), tokenizer)
    verify_token_files(config)
    path = data.val.files["notes"].path
    content = bytearray(path.read_bytes())
    content[3] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"notes/val\.memmap"):
        verify_token_files(config)


def test_errors_name_the_corpus(corpora):
    (corpora / "notes.jsonl").unlink()
    with pytest.raises(DataError) as caught:
        prepared(data_config(corpora), corpora)
    assert caught.value.problems[0].key == Key("data", "mixture", "1", "path")
    assert str(caught.value).startswith("[data].mixture.1.path: expected a file, a folder")


def test_a_corpus_that_is_too_short_is_named(corpora):
    config, own = data_config(corpora), tokenizer_config(corpora)
    tokenizer = prepare_tokenizer(config, own)
    with pytest.raises(TooFewTokensError, match="data/notes"):
        prepare_data(config, own, tokenizer, min_tokens=1500)


def test_token_files_of_two_tokenizers_are_no_mixture(corpora):
    config = data_config(corpora)
    prepared(config, corpora)
    part = corpora_of(config)["tale"]
    own = dataclasses.replace(part, on_change="remake")
    other = TokenizerConfig(vocab_size=300, tokenizer_dir=str(corpora / "other"))
    prepare_data(own, other, prepare_tokenizer(own, other))
    with pytest.raises(DataError, match="one tokenizer"):
        TokenData.open(config, corpora / "data")


def problems_of(**values) -> list[Problem]:
    with pytest.raises(ValueError) as caught:
        DataConfig(**values)
    return [(problem.key, problem.what) for problem in caught.value.problems]


def test_what_does_not_go_together_is_refused():
    part, other = MixtureConfig(path="a", weight=1), MixtureConfig(path="b", passes=1)
    (problem,) = problems_of(mixture=(part, other), corpus="c")
    assert problem[0] == Key("corpus")
    (problem,) = problems_of(mixture=(part, other), validation_corpus="c")
    assert problem[0] == Key("validation_corpus")
    (problem,) = problems_of(mixture=(part, MixtureConfig(path="x/A.txt", weight=1)))
    assert problem[0] == Key("mixture", "1", "name")
    (problem,) = problems_of(mixture=(MixtureConfig(path="tokenizer", weight=1),))
    assert problem[0] == Key("mixture", "0", "name")
    assert DataConfig(mixture=()).corpus_name == "python-stdlib"


@pytest.mark.parametrize(
    "values", [{}, {"weight": 1, "passes": 1}, {"weight": 1, "name": "a/b"}, {"weight": 0}]
)
def test_a_corpus_has_a_weight_or_passes_and_a_name_for_a_folder(values):
    with pytest.raises(ValueError):
        MixtureConfig(path="a", **values)


def test_who_reads_one_corpus_does_not_read_another_one_in_place_of_a_mixture(tmp_path):
    with pytest.raises(ConfigError, match=r"\[data\]\.mixture: expected one corpus here"):
        find_corpora(data_config(tmp_path))


def test_without_a_mixture_nothing_speaks_of_one():
    """Configs and records of origin of one corpus are as they were before there were mixtures."""
    assert "mixture" not in to_dict(DataConfig(corpus="a"))
    for config in (DataConfig(corpus="a"), DataConfig(corpus="a", mixture=())):
        assert "[data].mixture" not in settings(config)


def test_every_key_is_documented():
    assert all(field_docs(MixtureConfig).values())


def test_names():
    parts = [MixtureConfig(path=path, weight=1) for path in ("texts/My Books/*.txt", "notes.jsonl", "c/日本")]
    config = DataConfig(mixture=tuple(parts))
    assert config.corpus_name == "My-Books+notes+日本"
    assert [own.token_dir for own in corpora_of(config).values()] == [
        f"data/My-Books+notes+日本/{name}" for name in ("My-Books", "notes", "日本")
    ]
    many = DataConfig(mixture=tuple(MixtureConfig(path=f"corpus-{n}", weight=1) for n in range(50)))
    assert many.corpus_name == "corpus-0+49-others"
    assert corpora_of(DataConfig(corpus="a")) == {"": DataConfig(corpus="a")}


def test_shares_and_the_size_of_a_pass():
    weights = [MixtureConfig(path=name, weight=weight) for name, weight in (("a", 1), ("b", 3))]
    assert shares_of(weights, {"a": 100, "b": 5}) == {"a": 0.25, "b": 0.75}
    passes = [MixtureConfig(path=name, passes=number) for name, number in (("a", 1), ("b", 4))]
    assert shares_of(passes, {"a": 60, "b": 10}) == {"a": 0.6, "b": 0.4}
    assert pass_size({"a": 0.6, "b": 0.4}, {"a": 60, "b": 40}) == pytest.approx(100)
    # After 36, half of each: the one has been read 1.8 times, the other 0.2 times.
    assert pass_size({"a": 0.5, "b": 0.5}, {"a": 10, "b": 90}) == pytest.approx(36)


def test_the_same_shares_written_otherwise_are_the_same():
    wholes, parts = (
        [MixtureConfig(path=name, weight=own) for name, own in zip("abc", weights, strict=True)]
        for weights in ((7, 2, 1), (0.7, 0.2, 0.1))
    )
    sizes = dict.fromkeys("abc", 1)
    assert shares_of(wholes, sizes) == shares_of(parts, sizes)


@pytest.mark.parametrize("weight", [1e308, 1e-300])
def test_a_weight_that_leaves_others_nothing_is_refused(weight):
    with pytest.raises(ConfigError, match="weight: expected a number from"):
        MixtureConfig(path="a", weight=weight)
