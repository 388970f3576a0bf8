"""What takes ranks is tested in tests/distributed/test_collectives.py."""

import pytest

from transformerlm.cli import make_data


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"RANK": "1"}, "got RANK=1 without WORLD_SIZE and LOCAL_RANK"),
        ({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}, "expected MASTER_ADDR and MASTER_PORT"),
    ],
)
def test_half_an_environment_is_refused_in_a_line(monkeypatch, capfd, environment, words):
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert make_data.main(["--help"]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert words in err
