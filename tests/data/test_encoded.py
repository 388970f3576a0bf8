import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from transformerlm.data.documents import TRAIN, VAL
from transformerlm.data.encoded import Encoded, Tokens, from_bytes, to_bytes

SIZES = st.integers(0, 2**40)
IDS = st.lists(st.integers(0, 2**16 - 1)).map(lambda ids: np.array(ids, np.uint16))
TOKENS = st.builds(Tokens, st.sampled_from([TRAIN, VAL]), IDS, st.integers(0, 9), SIZES)
ITEMS = st.builds(Encoded, st.just(1), SIZES, st.lists(TOKENS, max_size=4))


@given(st.lists(ITEMS, max_size=4))
def test_a_block_of_work_arrives_as_it_was(block):
    num_items, num_read, arrived = from_bytes(to_bytes(block), np.dtype(np.uint16))
    assert num_items == len(block)
    assert num_read == sum(encoded.num_read for encoded in block)
    for split in (TRAIN, VAL):
        sent = [part for encoded in block for part in encoded.parts if part.split == split]
        numbers = [
            (part.ids.tolist(), part.num_documents, part.num_bytes) for part in arrived if part.split == split
        ]
        ids = [token_id for part in sent for token_id in part.ids.tolist()]
        expected = (ids, sum(part.num_documents for part in sent), sum(part.num_bytes for part in sent))
        assert numbers == ([expected] if ids or expected[1] else [])
