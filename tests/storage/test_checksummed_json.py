import json
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from transformerlm.storage.checksummed_json import (
    ChecksumError,
    MemberError,
    NewerFormatError,
    RecordError,
    RecordFormat,
    dump,
    load,
    members_of,
)

VALUES = {"format_version": 2, "nested": {"seal": "0" * 64, "list": [1, 2.5, None]}, "text": "ÄÖ\n"}
FORMAT = RecordFormat(
    version=2,
    checksum_since=2,
    members={"format_version": int, "nested": dict, "text": str},
    defaults={"text": "before there was any"},
)


def without_checksum(**changes):
    return json.dumps(VALUES | changes).encode()


def test_a_record_comes_back_and_is_plain_json():
    assert load(dump(VALUES), FORMAT) == VALUES
    assert {**json.loads(dump(VALUES)), "seal": ""} == {**VALUES, "seal": ""}


def test_members_that_are_not_described_are_ignored():
    assert load(dump(VALUES | {"another": 1}), FORMAT) == VALUES


def test_a_format_of_before_there_were_checksums_needs_none_and_may_lack_what_has_a_default():
    assert load(without_checksum(format_version=1), FORMAT) == VALUES | {"format_version": 1}
    early = json.dumps({"format_version": 1, "nested": {}}).encode()
    assert load(early, FORMAT)["text"] == "before there was any"
    with pytest.raises(MemberError):
        load(dump({"format_version": 2, "nested": {}}), FORMAT)


def test_a_checksum_that_the_format_promises_cannot_be_left_out():
    with pytest.raises(ChecksumError, match="its own checksum is missing") as caught:
        load(without_checksum(), FORMAT)
    assert caught.value.expected is None


def test_a_wrong_checksum_is_found_in_every_format():
    for version in (1, 2):
        content = dump(VALUES | {"format_version": version}).replace(b"2.5", b"2.6")
        with pytest.raises(ChecksumError, match="not as it was written") as caught:
            load(content, FORMAT)
        assert caught.value.expected != caught.value.actual


@pytest.mark.parametrize(
    "write", [dump, lambda values: json.dumps(values).encode(), lambda values: dump(values) + b" "]
)
def test_a_newer_format_is_refused_whatever_else_it_is(write):
    with pytest.raises(NewerFormatError) as caught:
        load(write({"format_version": 3}), FORMAT)
    assert (caught.value.version, caught.value.newest) == (3, 2)


@pytest.mark.parametrize("version", [None, "2", True, 2.0, 0, -1])
def test_a_format_version_is_a_whole_number_from_1_on(version):
    with pytest.raises(MemberError) as caught:
        load(dump(VALUES | {"format_version": version}), FORMAT)
    assert caught.value.member == "format_version"


@pytest.mark.parametrize("value", [None, 1, [], {}, True])
def test_a_member_of_a_wrong_type_is_named(value):
    with pytest.raises(MemberError, match='"text" is missing or of a wrong type: expected text') as caught:
        load(dump(VALUES | {"text": value}), FORMAT)
    assert caught.value.member == "text"


def test_the_fields_of_a_dataclass_describe_a_record():
    @dataclass
    class Described:
        number: int
        names: list[str]
        about: dict[str, Any]
        is_done: bool

    assert members_of(Described) == {"number": int, "names": list, "about": dict, "is_done": bool}


def test_every_flipped_bit_is_found():
    content = dump(VALUES)
    for position in range(len(content) * 8):
        flipped = bytearray(content)
        flipped[position // 8] ^= 1 << position % 8
        with pytest.raises(RecordError):
            load(bytes(flipped), FORMAT)


@given(st.integers(0, 200), st.binary(max_size=3))
@example(position=186, inserted=b" ")  # into the key "seal": looks like a record that never had a checksum
def test_what_is_cut_off_or_put_in_is_found(position, inserted):
    content = dump(VALUES)
    for changed in (content[:position], content[:position] + inserted + content[position:]):
        if changed != content:
            with pytest.raises(RecordError):
                load(changed, FORMAT)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"1", b"[" * 100_000, b'{"a": ' * 100_000, b"\xff", b"1" * 9999]
)
def test_what_is_no_object_is_one_line(content):
    with pytest.raises(RecordError) as caught:
        load(content, FORMAT)
    assert "\n" not in str(caught.value)


def test_an_error_knows_its_line():
    for content in (b'{\n"a":\n?}', b'{\n"a":\n"\xff"}'):
        with pytest.raises(RecordError) as caught:
            load(content, FORMAT)
        assert caught.value.line == 3
