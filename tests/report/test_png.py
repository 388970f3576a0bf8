import sys

import pytest

from tests.report.written_runs import write_run
from transformerlm.errors import ConfigError
from transformerlm.report import read_run
from transformerlm.report.png import pictures, write_pictures

PNG = b"\x89PNG\r\n\x1a\n"


def test_a_picture_per_chart(tmp_path):
    pytest.importorskip("matplotlib")
    run_dir = write_run(tmp_path / "run", changes={500: {"metrics.loss": float("nan")}})
    paths = write_pictures([read_run(run_dir)], tmp_path / "png")
    assert [path.stem for path in paths] == ["loss", "bits_per_byte", "lr", "grad_norm", "rate", "mfu"]
    assert all(path.read_bytes().startswith(PNG) for path in paths)


def test_pictures_of_several_runs_name_them(tmp_path):
    pytest.importorskip("matplotlib")
    runs = [
        read_run(write_run(tmp_path / name, num)) for name, num in (("one", 80), ("two", 1), ("three", 0))
    ]
    found = dict(pictures(runs))
    words = [text.get_text() for text in found["bits_per_byte"].axes[0].get_legend().get_texts()]
    assert words == ["one", "two", "three"]


def test_without_matplotlib_a_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ConfigError, match=r'pip install "transformerlm\[report\]"'):
        write_pictures([read_run(write_run(tmp_path / "run"))], tmp_path)
