import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transformerlm.storage.checksummed_json import seal, unseal

VALUES = {"format_version": 2, "nested": {"seal": "0" * 64, "list": [1, 2.5, None]}, "text": "ÄÖ\n"}


def test_what_is_sealed_comes_back_and_is_plain_json():
    assert unseal(seal(VALUES)) == (VALUES, True)
    assert {**json.loads(seal(VALUES)), "seal": ""} == {**VALUES, "seal": ""}


def test_what_was_never_sealed_is_said_to_be_so():
    assert unseal(json.dumps(VALUES).encode()) == (VALUES, False)


def test_every_flipped_bit_is_found():
    content = seal(VALUES)
    for position in range(len(content) * 8):
        flipped = bytearray(content)
        flipped[position // 8] ^= 1 << position % 8
        try:
            values, is_sealed = unseal(bytes(flipped))
        except ValueError:
            continue
        # Only where the key itself is hit can the rest be read, and then there is no seal any more.
        assert not is_sealed
        assert values.keys() - VALUES.keys()


@given(st.integers(0, 200), st.binary(max_size=3))
def test_what_is_cut_off_or_put_in_is_found(position, inserted):
    content = seal(VALUES)
    for changed in (content[:position], content[:position] + inserted + content[position:]):
        if changed == content:
            continue
        with pytest.raises(ValueError):
            assert unseal(changed)[1]
            raise AssertionError(changed)


@pytest.mark.parametrize("content", [b"", b"[]", b"1", b"[" * 100_000, b'{"a": ' * 100_000, b"\xff"])
def test_what_is_no_object_is_one_line(content):
    with pytest.raises(ValueError) as caught:
        unseal(content)
    assert "\n" not in str(caught.value)
