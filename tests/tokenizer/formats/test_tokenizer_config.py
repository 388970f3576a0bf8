"""Settings for other programs that are kept with a tokenizer, and what a post-processor adds."""

import json
import pickle

import pytest

from transformerlm.errors import DataError
from transformerlm.tokenizer import Tokenizer
from transformerlm.tokenizer.formats.tokenizer_config import read_added_prefix, read_tokenizer_config

BYTES = {byte: bytes([byte]) for byte in range(256)}
BOS = {"SpecialToken": {"id": "<s>", "type_id": 0}}
EOS = {"SpecialToken": {"id": "</s>", "type_id": 0}}
TEXT = {"Sequence": {"id": "A", "type_id": 0}}
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False}


def template(*single):
    return {"type": "TemplateProcessing", "single": list(single), "pair": [], "special_tokens": {}}


def prefix(tmp_path, post_processor, **config):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({"post_processor": post_processor}))
    return read_added_prefix(path, config)


@pytest.mark.parametrize(
    ("post_processor", "config", "expected"),
    [
        (None, {}, []),
        (BYTE_LEVEL, {}, []),
        (template(TEXT), {}, []),
        (template(BOS, TEXT), {}, ["<s>"]),
        ({"type": "Sequence", "processors": [BYTE_LEVEL, template(BOS, TEXT)]}, {}, ["<s>"]),
        (template(EOS, BOS, TEXT), {}, ["</s>", "<s>"]),
        (template(BOS, TEXT), {"add_bos_token": False}, []),
        (None, {"add_bos_token": True, "bos_token": "<s>"}, ["<s>"]),
        (None, {"add_bos_token": True}, []),
        (
            template(BOS, TEXT, EOS),
            {"add_bos_token": True, "bos_token": "<s>", "add_eos_token": False},
            ["<s>"],
        ),
    ],
)
def test_the_tokens_before_a_text_are_those_that_transformers_adds(
    tmp_path, post_processor, config, expected
):
    assert prefix(tmp_path, post_processor, **config) == expected


@pytest.mark.parametrize(
    ("post_processor", "what"),
    [
        (template(BOS, TEXT, EOS), "expected tokens before a text alone, got '</s>' behind it"),
        ({"type": "BertProcessing"}, "expected ByteLevel, TemplateProcessing.*, got BertProcessing"),
        (
            {"type": "RobertaProcessing", "cls": ["<s>", 0], "sep": ["</s>", 1]},
            "expected tokens before a text alone, got '</s>' behind it",
        ),
        (template(7, TEXT), "single: expected an object, got 7"),
        ({"type": "TemplateProcessing", "single": 7}, "single: expected a list, got 7"),
    ],
)
def test_what_is_not_before_a_text_is_refused_in_a_line(tmp_path, post_processor, what):
    with pytest.raises(DataError, match=rf"^[^\n]*tokenizer\.json:1: post_processor: {what}[^\n]*$"):
        prefix(tmp_path, post_processor)


KEPT = {"pad_token": "<s>", "chat_template": "{{ messages }}", "padding_side": "left"}


def test_settings_for_others_stay_with_the_tokenizer_and_change_no_id(tmp_path):
    given = KEPT | {"bos_token": "<unknown>", "tokenizer_class": "X", "eos_token": None}
    tokenizer = Tokenizer(BYTES, [], ["<s>"], tokenizer_config=given)
    assert tokenizer.tokenizer_config == KEPT  # tokens that it does not have would get ids that no model has
    assert tokenizer.fingerprint == Tokenizer(BYTES, [], ["<s>"]).fingerprint
    assert pickle.loads(pickle.dumps(tokenizer)).tokenizer_config == KEPT
    tokenizer.save(tmp_path / "saved")
    assert Tokenizer.from_dir(tmp_path / "saved").tokenizer_config == KEPT
    Tokenizer(BYTES, [], ["<s>"]).save(tmp_path / "saved")
    assert Tokenizer.from_dir(tmp_path / "saved").tokenizer_config == {}
    tokenizer.export_tokenizer_json(tmp_path / "exported")
    assert Tokenizer.from_dir(tmp_path / "exported").tokenizer_config == KEPT


def test_tokens_with_flags_and_a_template_in_a_file_of_its_own_are_read(tmp_path):
    assert read_tokenizer_config(tmp_path) == {}
    content = {
        "pad_token": {"__type": "AddedToken", "content": "<s>", "lstrip": False},
        "chat_template": "old",
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(content))
    (tmp_path / "chat_template.jinja").write_text("new")
    assert read_tokenizer_config(tmp_path) == {"pad_token": "<s>", "chat_template": "new"}
    (tmp_path / "tokenizer_config.json").write_text("[1]")
    with pytest.raises(DataError, match=r"tokenizer_config\.json:1: expected an object, got \[1\]"):
        read_tokenizer_config(tmp_path)
