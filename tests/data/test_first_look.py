"""Texts that nobody can train on are refused before PyTorch is imported."""

import subprocess
import sys

import pytest

from transformerlm.config import CorpusConfig, MixtureConfig
from transformerlm.data.first_look import check_corpora
from transformerlm.errors import DataError

PROGRAM = """
import sys
from transformerlm.cli.train import main
status = main([f"--data.corpus={sys.argv[1]}", "--training.max_time=9s"])
print(status, "torch" in sys.modules)
"""


def test_a_missing_text_is_told_before_torch_is_imported(tmp_path):
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "none")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout == "3 False\n", done.stderr
    assert "there is no such file" in done.stderr


def test_each_corpus_of_a_mixture_is_looked_at(tmp_path, monkeypatch):
    monkeypatch.setattr("transformerlm.data.first_look.MAX_FILES", 2)  # here are more: that plays no part
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "b.png").write_bytes(b"\x89PNG\0")
    parts = tuple(MixtureConfig(path=str(tmp_path / name), weight=1) for name in ("a.txt", "pictures"))
    check_corpora(CorpusConfig(mixture=parts[:1]))
    with pytest.raises(DataError) as caught:
        check_corpora(CorpusConfig(mixture=parts))
    assert str(caught.value.problems[0].key) == "[data].mixture.1.path"
