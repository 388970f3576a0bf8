import os
import pickle

import pytest

from transformerlm.errors import DataError
from transformerlm.tokenizer import Tokenizer, train_bpe
from transformerlm.tokenizer.formats.text_file import FileError, read_bytes, read_utf8


@pytest.fixture(scope="session", autouse=True)
def kernels():
    """Nothing here depends on them: once is enough."""


def test_a_fifo_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "vocab.json")
    with pytest.raises(DataError, match=r"vocab\.json: expected a file, got a FIFO"):
        read_bytes(tmp_path / "vocab.json")


def test_errors_carry_file_line_and_reason(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbftext\n")
    assert read_utf8(path) == "text\n"
    path.write_bytes(b"one\ntwo \xff")
    with pytest.raises(FileError) as caught:
        read_utf8(path)
    error = pickle.loads(pickle.dumps(caught.value))
    assert (error.path, error.line, error.reason) == (path, 2, "not UTF-8 at byte 8 of the file")
    assert error.lines == [f"{path}:2: {error.reason}"]
    with pytest.raises(FileError) as caught:
        train_bpe(path, 300, [], num_workers=1)
    assert (caught.value.path, caught.value.line) == (path, None)
    (tmp_path / "vocab.json").write_text('{"a": 0,\n"b": 0}')
    with pytest.raises(FileError) as caught:
        Tokenizer.from_dir(tmp_path)
    assert (caught.value.path.name, caught.value.line) == ("vocab.json", 2)
