import pytest

from transformerlm.config import TrainConfig
from transformerlm.errors import ConfigError, Key
from transformerlm.schema import from_toml, read_toml
from transformerlm.schema.toml import MAX_CONFIG_BYTES


def problem_of(path):
    with pytest.raises(ConfigError) as caught:
        read_toml(path)
    (problem,) = caught.value.problems
    return problem


def test_a_file_with_and_without_a_byte_order_mark(tmp_path):
    path = tmp_path / "a.toml"
    for content in (b"[a]\nb = 1\n", b"\xef\xbb\xbf[a]\r\nb = 1\r\n"):
        path.write_bytes(content)
        assert read_toml(path) == {"a": {"b": 1}}


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"a = ", "not valid TOML: "),
        (b"\xff", "not valid TOML: expected UTF-8, got byte 0xff (at line 1)"),
        (b"a = " + b"[" * 5000, "not valid TOML: nested too deeply"),
        (b"a = " + b"1" * 5000, "not valid TOML: a number of thousands of digits"),
        (b"#" * (MAX_CONFIG_BYTES + 1), "expected a TOML file of at most 1,000,000 bytes, got more"),
        (None, "expected a TOML file, got: No such file or directory"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_problem_with_its_file(content, what, tmp_path):
    path = tmp_path / "a.toml"
    if content is not None:
        path.write_bytes(content)
    problem = problem_of(path)
    assert problem.source == str(path)
    assert problem.what.startswith(what)


def test_a_file_is_a_config_or_says_what_is_wrong(tmp_path):
    path = tmp_path / "train.toml"
    path.write_text("[training]\nmax_steps = 7\n[schedule]\nwarmup_steps = 3")
    assert from_toml(TrainConfig, str(path)).training.max_steps == 7
    path.write_text("[training]\nmax_stepz = 7")
    with pytest.raises(ConfigError) as caught:
        from_toml(TrainConfig, path)
    assert [(problem.key, problem.source) for problem in caught.value.problems] == [
        (Key("training", "max_stepz"), str(path))
    ]
