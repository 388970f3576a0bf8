"""Reading a corpus to its documents, as all commands do."""

from transformerlm.config import CorpusConfig
from transformerlm.data.chunks import CHUNK_BYTES, chunks_of_all
from transformerlm.data.corpus import find_corpora
from transformerlm.data.documents import documents_of
from transformerlm.data.split import regions
from transformerlm.tokenizer import Pretokenizer

SAFE_CUT = Pretokenizer(special_tokens=["<|endoftext|>"]).safe_cut


def documents(path, chunk_bytes=CHUNK_BYTES, **settings):
    """The texts of all documents of a corpus."""
    config = CorpusConfig(corpus=str(path), validation_fraction=0, **settings)
    parts = regions(config, find_corpora(config))
    chunks = chunks_of_all(parts, config, SAFE_CUT, chunk_bytes)
    return [document.text for chunk in chunks for document in documents_of(chunk, config)]
