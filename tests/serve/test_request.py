import json

import pytest

from transformerlm.serve.errors import ApiError
from transformerlm.serve.request import MAX_LOGPROBS, check_model, parse


def parsed(**fields):
    return parse(json.dumps(fields).encode())


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a", ("a",)),
        ("", ("",)),
        (["a", "b"], ("a", "b")),
        ([1, 2], ((1, 2),)),
        ([[1], [2, 3]], ((1,), (2, 3))),
        (["a", [3]], ("a", (3,))),
    ],
)
def test_a_prompt_is_text_or_ids_or_several(prompt, expected):
    assert parsed(prompt=prompt).prompts == expected


@pytest.mark.parametrize("prompt", [[], [[]], 3, [1, "a"], [True], [1.5], {}, [["a"]], False, "\ud800"])
def test_other_prompts_are_refused(prompt):
    with pytest.raises(ApiError) as caught:
        parsed(prompt=prompt)
    assert (caught.value.status, caught.value.param) == (400, "prompt")


def test_null_is_the_default_and_zero_is_not():
    fields = parsed(prompt="a", temperature=None, max_tokens=None, stop=None, suffix=None, seed=None).fields
    assert (fields.temperature, fields.max_tokens, fields.stop_strings, fields.seed) == (1.0, 16, (), None)
    fields = parsed(prompt="a", temperature=0, logprobs=0, seed=0, max_tokens=0, echo=True).fields
    assert (fields.temperature, fields.logprobs, fields.seed, fields.max_tokens) == (0.0, 0, 0, 0)


def test_stop_strings_may_be_one_or_several_and_white_space():
    assert parsed(prompt="a", stop="x").fields.stop_strings == ("x",)
    assert parsed(prompt="a", stop=["\n\n", " "]).fields.stop_strings == ("\n\n", " ")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"suffix": "x"}, "suffix"),
        ({"logit_bias": {"3": 1}}, "logit_bias"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"frequency_penalty": "0"}, "frequency_penalty"),
        ({"messages": []}, "messages"),
        ({"n_predict": 3}, "n_predict"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"temperature": 1e400}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": True}, "n"),
        ({"best_of": 3}, "best_of"),
        ({"stop": [""]}, "stop"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stop": 3}, "stop"),
        ({"seed": -1}, "seed"),
        ({"seed": 10**30}, "seed"),
        ({"logprobs": MAX_LOGPROBS + 1}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stream": 1}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options"),
        ({"stream": True, "stream_options": {"other": True}}, "stream_options"),
        ({"include_usage": True, "stream": True}, "include_usage"),
    ],
    ids=str,
)
def test_fields_that_are_unknown_unsupported_or_wrong_are_named(fields, param):
    body = json.dumps({"prompt": "a", **fields}).replace("Infinity", "1e400").encode()
    with pytest.raises(ApiError) as caught:
        parse(body)
    error = caught.value
    assert (error.status, error.param) == (400, param)
    assert param in error.message
    assert error.body["error"]["type"] == "invalid_request_error"


def test_all_wrong_fields_are_named_at_once():
    with pytest.raises(ApiError) as caught:
        parsed(prompt="a", tempreature=1, top_p=3, n=-1)
    for name in ("tempreature", 'did you mean "temperature"', "top_p", "n: "):
        assert name in caught.value.message


NO_JSON = [
    b"",
    b"{",
    b"[]",
    b'"a"',
    b'{"prompt": NaN}',
    b"\xff",
    b"[" * 10**5,
    b'{"n": ' + b"9" * 5000 + b"}",
]
TWICE = b'{"n": 1, "n": 2, "prompt": "a"}'


@pytest.mark.parametrize("body", [*NO_JSON, TWICE], ids=lambda body: repr(body[:12]))
def test_what_is_no_json_object_is_refused_without_being_repeated(body):
    with pytest.raises(ApiError) as caught:
        parse(body)
    assert caught.value.status == 400
    assert "9999" not in caught.value.message


def test_another_model_is_not_found():
    check_model(None, "mine")
    check_model("mine", "mine")
    with pytest.raises(ApiError) as caught:
        check_model("../mine", "mine")
    assert (caught.value.status, caught.value.code) == (404, "model_not_found")


def test_json_with_too_many_levels_is_told_as_that():
    body = b'{"prompt": ' + b"[" * 200_000 + b"]" * 200_000 + b"}"
    with pytest.raises(ApiError, match="too many levels"):
        parse(body)


def test_best_of_says_what_n_is():
    with pytest.raises(ApiError, match=r"best_of: expected 2, the same as n, .*; got 3"):
        parsed(prompt="a", n=2, best_of=3)
