"""Compressed files as streams: as the programs unpack them, or an error that names the place."""

import random
import re
import subprocess

import pytest

from tests.data.packed_files import COMMANDS, EACH, packed
from tests.peak_memory import peak_memory, reset_peak_memory
from transformerlm.data.reading.streams import CODECS, blocks, codec_of, inner_name, open_stream
from transformerlm.errors import DataError

LIMIT = 2**40
RANDOM = random.Random(0)
TEXT = "".join(RANDOM.choices(["the ", "cat ", "漢字 ", "Äsop\n"], k=3000)).encode()
UNPACK = {"gz": "gzip", "bz2": "bzip2", "xz": "xz", "zst": "zstd"}


def read(path, codec, limit=LIMIT):
    with open_stream(str(path), codec, limit) as stream:
        content = b"".join(blocks(stream))
        assert stream.file_position == path.stat().st_size
        return content


@pytest.fixture
def write(tmp_path):
    def to(content):
        (tmp_path / "a").write_bytes(content)
        return tmp_path / "a"

    return to


def test_a_plain_file_is_its_bytes(write):
    assert read(write(TEXT), "") == TEXT


@pytest.mark.parametrize("codec", EACH)
@pytest.mark.parametrize("num_parts", [1, 2, 5])
def test_all_parts_of_a_file_are_read(write, codec, num_parts):
    content = b"".join(packed(TEXT[: number * 1000], codec) for number in range(num_parts))
    path = write(content)
    unpacked = subprocess.run([UNPACK[codec], "-dc"], input=content, capture_output=True, check=True).stdout
    assert read(path, codec) == unpacked == b"".join(TEXT[: number * 1000] for number in range(num_parts))
    assert codec_of(content[:100]) == codec


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        *(("gz", ("-1",)), ("gz", ("-9", "--rsyncable"))),
        *(("bz2", ("-1",)), ("xz", ("-9e",)), ("xz", ("-0", "--block-size=4096", "-T2"))),
        *(("xz", ("--check=none",)), ("zst", ("-19",)), ("zst", ("-T2", "-1")), ("zst", ("--no-check",))),
    ],
)
def test_options_of_the_programs_change_nothing(write, codec, options):
    assert read(write(packed(TEXT, codec, *options)), codec) == TEXT


def test_padding_and_frames_to_be_skipped_are_no_text(write):
    skipped = b"\x53\x2a\x4d\x18" + (3).to_bytes(4, "little") + b"abc"
    frame = packed(TEXT, "zst")
    assert read(write(skipped + frame + skipped + frame), "zst") == 2 * TEXT
    assert read(write(packed(TEXT, "gz") + bytes(1024)), "gz") == TEXT
    assert read(write(packed(TEXT, "gz") + bytes(10) + packed(TEXT, "gz")), "gz") == 2 * TEXT
    assert read(write(packed(TEXT, "xz") + bytes(100_000) + packed(TEXT, "xz")), "xz") == 2 * TEXT


@pytest.mark.parametrize("codec", EACH)
def test_a_file_cut_off_anywhere_is_named_with_the_place(write, codec):
    content = packed(TEXT, codec)
    for size in [*range(10, 40), *RANDOM.sample(range(40, len(content)), 20), len(content) - 1]:
        path = write(content[:size])
        with pytest.raises(DataError, match=rf"^{re.escape(str(path))}: ends at byte {size}, within its "):
            read(path, codec)


@pytest.mark.parametrize("codec", EACH)
def test_a_damaged_byte_is_an_error_with_its_place_or_does_no_harm(write, codec):
    content = packed(TEXT, codec)
    found = []
    for place in RANDOM.sample(range(len(content)), 60):
        damaged = bytearray(content)
        damaged[place] ^= 1 << RANDOM.randrange(8)
        path = write(damaged)
        try:
            assert read(path, codec) == TEXT
        except DataError as error:
            found.append(str(error))
    place = r"(between bytes \d+ and \d+|from byte \d+ on|ends at byte \d+)"
    assert [line for line in found if not re.match(rf"{re.escape(str(path))}: .*{place}", line)] == []
    assert len(found) > 40  # the time in a gzip header, for one, is no part of the text


@pytest.mark.parametrize("codec", EACH)
def test_what_is_between_and_after_the_parts_is_named(write, codec):
    part = packed(TEXT, codec)
    for content in (part + b"some garbage", part + b"x" + part, part + b"\1"):
        with pytest.raises(DataError, match=rf"from byte {len(part)} on it is no \w+ but something else"):
            read(write(content), codec)


@pytest.mark.parametrize("codec", EACH)
def test_a_bomb_takes_little_memory_and_no_more_than_is_allowed(tmp_path, codec):
    path = tmp_path / "bomb"
    with path.open("wb") as file:
        zeros = subprocess.Popen(["head", "-c", str(2**26), "/dev/zero"], stdout=subprocess.PIPE)
        subprocess.run(COMMANDS[codec], stdin=zeros.stdout, stdout=file, check=True)
        zeros.stdout.close()
        assert zeros.wait() == 0
    reset_peak_memory()
    before = peak_memory()
    with open_stream(str(path), codec, LIMIT) as stream:
        assert sum(map(len, blocks(stream))) == 2**26
    assert peak_memory() - before < 24 * 2**20
    with pytest.raises(DataError, match=r"unpack to more than 1,000,000; --data\.max_unpacked_bytes"):
        read(path, codec, 10**6)


def test_a_file_that_would_need_much_memory_is_refused(write):
    with pytest.raises(DataError, match="xz: Memory usage limit"):
        read(write(packed(TEXT, "xz", "--lzma2=dict=1GiB")), "xz")
    with pytest.raises(DataError, match="Zstandard: "):
        read(write(packed(TEXT * 10, "zst", "--long=31", "--single-thread")), "zst")


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(DataError, match="gone: cannot be read: No such file"):
        read(tmp_path / "gone", "gz")
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        read(tmp_path, "gz")


def test_suffixes_are_taken_off_once():
    assert [inner_name(name) for name in ("a.txt.gz", "a.JSONL.ZST", "a.gz.xz", "a", "x/.gz", "gz")] == [
        *("a.txt", "a.JSONL", "a.gz", "a", "x/", "gz")
    ]
    assert set(CODECS) == set(COMMANDS)
