import pytest

from transformerlm.training.expectation import FILE_NAME, Expectation


def test_what_is_written_is_read_back(tmp_path):
    written = Expectation(2.01, 1.9, 2.1)
    written.write(tmp_path)
    assert Expectation.read(tmp_path) == written
    assert str(written) == "2.010 bits per byte (1.90 to 2.10)"


@pytest.mark.parametrize(
    "content", [None, b"", b"[1]", b'{"low": 1.0}', b'{"bits_per_byte": NaN, "low": 1.0, "high": 2.0}']
)
def test_a_missing_or_damaged_file_is_none(tmp_path, content):
    if content is not None:
        (tmp_path / FILE_NAME).write_bytes(content)
    assert Expectation.read(tmp_path) is None


@pytest.mark.parametrize(
    ("bits", "is_within"), [(2.0049, False), (2.0051, True), (2.5, True), (2.516, False)]
)
def test_what_is_printed_as_an_end_of_the_interval_is_within_it(bits, is_within):
    assert (bits in Expectation(2.2, 2.0144, 2.5093)) is is_within
