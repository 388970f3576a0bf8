import numpy as np
import pytest

from tests.tiny_run import write_fables
from transformerlm.config import CorpusConfig, DataConfig, TokenizerConfig
from transformerlm.data.build import make_data
from transformerlm.data.merge import merge
from transformerlm.data.origin import MERGED_KEY
from transformerlm.data.prepare import prepare_data
from transformerlm.data.token_file import TokenFile
from transformerlm.errors import ConfigError, DataError
from transformerlm.progress import SilentReporter
from transformerlm.tokenizer import Tokenizer

EOT = "<|endoftext|>"


def tokenizer(*special):
    return Tokenizer({number: bytes([number]) for number in range(256)}, [], [EOT, *special])


@pytest.fixture
def folders(tmp_path):
    """Token files of two corpora, of one tokenizer."""
    write_fables(tmp_path / "fables")
    (tmp_path / "other.txt").write_text(EOT.join(f"Text number {number}." for number in range(50)))
    for name, corpus in (("a", "fables"), ("b", "other.txt")):
        config = CorpusConfig(corpus=str(tmp_path / corpus), validation_fraction=0.2)
        make_data(config, tokenizer(), tmp_path / name)
    return [tmp_path / "a", tmp_path / "b"]


def test_the_tokens_of_folders_are_those_of_all_one_after_the_other(folders, tmp_path):
    merged = merge(folders, tmp_path / "c")
    assert [file.path for file in merged] == [tmp_path / "c" / "train.memmap", tmp_path / "c" / "val.memmap"]
    for file in merged:
        file.verify()
        parts = [TokenFile.open(folder / file.path.name) for folder in folders]
        np.testing.assert_array_equal(file.tokens, np.concatenate([part.tokens for part in parts]))
        for name in ("num_documents", "num_bytes", "num_tokens"):
            assert getattr(file, name) == sum(getattr(part, name) for part in parts)
        assert file.sidecar.sources == [source for part in parts for source in part.sidecar.sources]
        assert len(file.made_from[MERGED_KEY]) == 2
        assert file.made_from["[data].document_separator"] == EOT
        assert "[data].corpus" not in file.made_from


def test_files_are_merged_into_a_file(folders, tmp_path):
    paths = [folder / "train.memmap" for folder in folders]
    (merged,) = merge([*paths, paths[0]], tmp_path / "new folder" / "all.memmap")
    numbers = [TokenFile.open(path).num_tokens for path in paths]
    assert merged.num_tokens == 2 * numbers[0] + numbers[1]


def test_merged_files_can_be_trained_on_whatever_the_corpus_is(folders, tmp_path):
    merge(folders, tmp_path / "c")
    said = []
    listener = SilentReporter()
    listener.say = said.append
    config = DataConfig(corpus="no such text", token_dir=str(tmp_path / "c"))
    data = prepare_data(config, TokenizerConfig(), tokenizer(), listener)
    assert data.train.num_documents > 80
    assert "merged from several" in said[-1]
    with pytest.raises(DataError, match="tokenizer"):
        prepare_data(config, TokenizerConfig(), tokenizer("<|other|>"))


def test_what_does_not_go_together_is_refused_and_nothing_is_written(folders, tmp_path):
    output = tmp_path / "c"
    with pytest.raises(ConfigError, match="folders"):
        merge([folders[0], folders[1] / "train.memmap"], output)
    with pytest.raises(ConfigError, match="nothing"):
        merge(folders, folders[0])
    config = CorpusConfig(corpus=str(tmp_path / "other.txt"))
    make_data(config, tokenizer("<|other|>"), tmp_path / "other tokenizer")
    with pytest.raises(DataError, match="one tokenizer"):
        merge([folders[0], tmp_path / "other tokenizer"], output)
    (folders[1] / "val.memmap").unlink()
    (folders[1] / "val.memmap.json").unlink()
    with pytest.raises(DataError, match="in all 2 folders or in none, got 1"):
        merge(folders, output)
    assert not output.exists()


def test_a_damaged_file_is_noticed_and_leaves_nothing_behind(folders, tmp_path):
    path = folders[1] / "train.memmap"
    content = bytearray(path.read_bytes())
    content[10] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="damaged"):
        merge(folders, tmp_path / "c")
    assert list((tmp_path / "c").iterdir()) == []
