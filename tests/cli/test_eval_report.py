import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest

from transformerlm.checkpoint.store import Checkpoint
from transformerlm.cli.eval_report import document_lines, record, table
from transformerlm.errors import DataError
from transformerlm.evaluation.compare import ScoredModel, compare
from transformerlm.evaluation.statistics import DocumentScores
from transformerlm.logging import names
from transformerlm.logging.jsonl import to_line


def scored(name, nats, num_tokens, num_bytes, fingerprint="same"):
    arrays = np.array(nats, float), np.array(num_tokens), np.array(num_bytes)
    paths = [f"{index}.txt" for index in range(len(nats))]
    return ScoredModel(Checkpoint(Path(name), 1, {}, {}), (fingerprint, 0), DocumentScores(*arrays, paths))


FIRST = scored("runs/a", [40.0, 90.0, 20.0], [10, 30, 10], [40, 100, 60])
SECOND = scored("runs/b", [50.0, 95.0, 22.0], [10, 30, 10], [40, 100, 60])
COARSE = scored("runs/c", [50.0, 95.0, 22.0], [12, 33, 15], [40, 100, 60], "another")


def test_a_table_of_one_model():
    title, head, row, legend = table(compare("a text", FIRST, None))
    assert title == "a text: 3 documents, 200 bytes"
    assert head.split() == ["tokens", "loss", "perplexity", "bits", "per", "byte"]
    assert row.split()[:3] == ["runs/a", "50", "3.0000"]
    assert f"{math.exp(3):.2f} (" in row
    assert f"{150 / math.log(2) / 200:.4f} ±" in row
    assert "over 3 documents" in legend
    # Columns begin where their heads do.
    assert row.index("3.0000") == head.index("loss")


def test_a_table_of_two_models_and_their_difference():
    lines = list(table(compare("a text", FIRST, SECOND)))
    assert lines[4].startswith("first - second")
    assert f"{-17 / 50:+.4f} ± " in lines[4]
    assert f"x {math.exp(-17 / 50):.4f} (" in lines[4]
    assert lines[-1].startswith("the first needs fewer bits, by ")
    assert list(table(compare("a text", SECOND, FIRST)))[-1].startswith("the second needs fewer bits, by ")


def test_what_fewer_bits_cost_is_told_in_percent_of_the_same_model():
    stored = dataclasses.replace(
        scored("runs/a", [40.5, 90.2, 20.1], [10, 30, 10], [40, 100, 60]), weights="int4"
    )
    lines = list(table(compare("a text", FIRST, stored)))
    assert lines[3].startswith("runs/a (int4) ")
    percent = 100 * 0.8 / 150
    assert lines[-1].startswith(f"int4 instead of float32: +{percent:.3f} % ± ")
    assert record(compare("a text", FIRST, stored))[names.COMPARED_WITH] == "runs/a (int4)"
    other = dataclasses.replace(SECOND, weights="int4")
    assert not any("instead of" in line for line in table(compare("a text", FIRST, other)))


def test_other_tokens_leave_their_cells_empty():
    outcome = compare("a text", FIRST, COARSE)
    lines = list(table(outcome))
    assert lines[4].split()[:3] == ["first", "-", "second"]
    assert lines[4].count("±") == 1
    assert "the two count different tokens" in lines[-2]
    assert names.LOSS_DIFFERENCE not in record(outcome)
    assert names.BITS_PER_BYTE_DIFFERENCE in record(outcome)


def test_one_document_has_numbers_without_errors():
    one = scored("runs/a", [40.0], [10], [40])
    lines = list(table(compare("a text", one, one)))
    assert "±" not in "".join(lines)
    assert "nan" not in "".join(lines)
    assert "no standard error can be told" in lines[-1]
    assert json.loads(to_line(record(compare("a text", one, None))))[names.EVAL_LOSS_ERROR] == "NaN"


def test_a_line_a_document():
    lines = [json.loads(line) for line in document_lines(compare("a text", FIRST, COARSE))]
    assert lines[1] == {
        "document": 1,
        "file": "1.txt",
        "bytes": 100,
        "tokens": 30,
        "nats": 90.0,
        "compared_tokens": 33,
        "compared_nats": 95.0,
    }
    assert [line["nats"] for line in lines] == [40.0, 90.0, 20.0]


def test_models_that_saw_other_documents_are_not_compare():
    other = scored("runs/b", [50.0, 95.0, 22.0], [10, 30, 10], [40, 101, 60])
    with pytest.raises(DataError, match="a text: has changed while it was being read"):
        compare("a text", FIRST, other)
