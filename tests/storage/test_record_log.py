"""Append-only files of JSON records with checksums."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transformerlm.storage.record_log import RecordLog

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
RECORDS = st.lists(
    st.dictionaries(st.text().filter(lambda key: key != "sha256"), VALUES, max_size=3), min_size=1, max_size=6
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "folder" / "log.jsonl"


@given(records=RECORDS)
def test_records_are_read_as_they_were_appended(tmp_path_factory, records):
    path = tmp_path_factory.mktemp("log") / "log.jsonl"
    for record in records:
        RecordLog(path).append(record)
    assert RecordLog(path).records == records
    assert RecordLog(path).damaged_lines == []


def test_a_file_that_was_cut_anywhere_loses_only_its_last_record_and_goes_on(path):
    records = [{"event": "end", "name": f"{number:04}", "value": number / 7} for number in range(3)]
    log = RecordLog(path)
    for record in records:
        log.append(record)
    whole = path.read_bytes()
    last = whole.rstrip(b"\n").rfind(b"\n") + 1
    for end in range(last + 1, len(whole) - 1):
        path.write_bytes(whole[:end])
        cut = RecordLog(path)
        assert cut.records == records[:2]
        cut.append({"event": "stop"})
        again = RecordLog(path)
        assert again.records == [*records[:2], {"event": "stop"}]
        assert again.damaged_lines == [3]


def test_every_damaged_byte_is_noticed_and_the_other_records_stay(path):
    records = [{"name": "0001", "value": 2.5}, {"name": "0002", "value": 3.5}]
    for record in records:
        RecordLog(path).append(record)
    whole = path.read_bytes()
    first = whole.index(b"\n")
    for place in range(first):
        # Another character of the same kind: what is left is mostly still JSON.
        other = b"7" if whole[place : place + 1] != b"7" else b"8"
        path.write_bytes(whole[:place] + other + whole[place + 1 :])
        found = RecordLog(path)
        assert found.records == records[1:], whole[place : place + 1]
        assert found.damaged_lines == [1]


@pytest.mark.parametrize("line", ["[1]", "3", "null", '{"sha256": 3}', "[" * 100_000, "\x00"])
def test_lines_that_are_no_records_are_passed_over(path, line):
    RecordLog(path).append({"a": 1})
    with path.open("a") as file:
        file.write(line + "\n")
    RecordLog(path).append({"b": 2})
    assert RecordLog(path).records == [{"a": 1}, {"b": 2}]


def test_the_file_is_lines_of_json_that_are_only_added(path):
    log = RecordLog(path)
    log.append({"a": "ä\n"})
    before = path.read_bytes()
    log.append({"b": 2})
    assert path.read_bytes().startswith(before)
    assert [json.loads(line).keys() for line in path.read_text().splitlines()] == [
        {"a", "sha256"},
        {"b", "sha256"},
    ]
