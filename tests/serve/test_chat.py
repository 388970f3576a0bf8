"""Answers in conversations, by the `openai` package and by hand."""

import asyncio
import json

import openai
import pytest
import torch

from tests.chat_templates import HEADERS, chat_tokenizer, said
from tests.serve.servers import in_a_thread, served
from tests.small_models import language_model

HOW = {"model": "small", "max_tokens": 12, "temperature": 0.0}


@pytest.fixture(scope="module")
def chat_lm():
    own = chat_tokenizer(HEADERS)
    return language_model(own, kernels=True, vocab_size=own.vocab_size, context_length=256)


@pytest.fixture(scope="module")
def chat_server(chat_lm):
    with served(chat_lm) as found:
        yield found


@pytest.fixture(scope="module")
def client(chat_server):
    return openai.OpenAI(base_url=f"{chat_server.url}/v1", api_key="none", max_retries=0)


def ask(server, path="/v1/chat/completions", **fields):
    """Return the status and the JSON of an answer."""
    status, _, content = server.ask("POST", path, fields)
    return status, json.loads(content)


def expected(lm, messages, **settings):
    return lm.chat(messages, **{"max_new_tokens": 12, "temperature": 0.0, "top_p": 1.0, **settings})


@pytest.mark.parametrize("messages", [said("Hi"), said("a", "b", "c", system="Be kind"), said("a", "The fo")])
def test_an_answer_is_that_of_the_model_whole_and_in_pieces(client, chat_lm, messages):
    answer = client.chat.completions.create(messages=messages, **HOW)
    choice = answer.choices[0]
    assert (choice.message.role, choice.message.content) == ("assistant", expected(chat_lm, messages))
    assert (answer.object, choice.finish_reason) == ("chat.completion", "length")
    assert answer.usage.completion_tokens == 12

    how = {**HOW, "stream": True, "stream_options": {"include_usage": True}}
    *chunks, last = client.chat.completions.create(messages=messages, **how)
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert chunks[0].choices[0].delta.role == "assistant"
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert "".join(pieces) == choice.message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "length"
    assert (last.choices, last.usage) == ([], answer.usage)


def test_an_answer_ends_at_the_templates_end_of_turn(chat_server, chat_lm):
    """Sampled until one of the ends of a turn is drawn: it is no part of the answer."""
    how = {"messages": said("Hi"), "temperature": 5.0, "max_tokens": 200, "logprobs": True}
    found = [ask(chat_server, seed=seed, **how)[1]["choices"][0] for seed in range(12)]
    ended = [choice for choice in found if choice["finish_reason"] == "stop"]
    assert ended
    for choice in ended:
        tokens = b"".join(bytes(entry["bytes"]) for entry in choice["logprobs"]["content"])
        assert tokens.decode(errors="replace") == choice["message"]["content"]
        assert "<|eot|>" not in choice["message"]["content"]


def test_seeds_stops_and_several_answers(client, chat_lm):
    how = {**HOW, "messages": said("Hi"), "temperature": 1.0, "seed": 3}
    answer = client.chat.completions.create(n=3, **how)
    texts = [choice.message.content for choice in answer.choices]
    for row, text in enumerate(texts):
        assert text == expected(chat_lm, said("Hi"), temperature=1.0, seed=3, first_row=row)
    assert len(set(texts)) == 3
    stop = texts[0][3:5]
    cut = client.chat.completions.create(stop=[stop], **how).choices[0]
    assert (cut.message.content, cut.finish_reason) == (texts[0][: texts[0].index(stop)], "stop")


def test_log_probabilities_in_chat_form(client):
    how = {**HOW, "messages": said("Hi"), "logprobs": True, "top_logprobs": 3}
    choice = client.chat.completions.create(**how).choices[0]
    entries = choice.logprobs.content
    assert len(entries) == 12
    assert bytes(byte for entry in entries for byte in entry.bytes).decode(errors="replace") == (
        choice.message.content
    )
    for entry in entries:  # greedy: each token is the likeliest
        assert entry.top_logprobs[0].token == entry.token
        assert entry.top_logprobs[0].logprob == pytest.approx(entry.logprob, abs=1e-5)
        assert len(entry.top_logprobs) == 3
    chunks = client.chat.completions.create(stream=True, **how)
    streamed = [entry for chunk in chunks for entry in (chunk.choices[0].logprobs or _NONE).content]
    assert streamed == entries
    plain = client.chat.completions.create(messages=said("Hi"), **HOW)
    assert plain.choices[0].logprobs is None


class _NONE:
    content = ()


def test_the_asynchronous_client(chat_server, chat_lm):
    async def both():
        async with openai.AsyncOpenAI(base_url=f"{chat_server.url}/v1", api_key="none") as client:
            whole, stream = await asyncio.gather(
                client.chat.completions.create(messages=said("a"), **HOW),
                client.chat.completions.create(messages=said("b"), stream=True, **HOW),
            )
            pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
            return whole.choices[0].message.content, "".join(pieces)

    assert in_a_thread(asyncio.run, both()) == (expected(chat_lm, said("a")), expected(chat_lm, said("b")))


def test_forms_of_messages(chat_server, chat_lm):
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [{"role": "developer", "content": "s", "name": "me"}, {"role": "user", "content": parts}]
    _, answer = ask(chat_server, messages=messages, max_tokens=12, temperature=0)
    assert answer["choices"][0]["message"]["content"] == expected(chat_lm, said("a\nb", system="s"))
    back = {**answer["choices"][0]["message"], "tool_calls": None}
    how = {"max_completion_tokens": 2, "chat_template_kwargs": {"date_string": "3 Mar"}, "user": "me"}
    status, again = ask(chat_server, messages=[*messages, back, {"role": "user", "content": "c"}], **how)
    assert (status, again["usage"]["completion_tokens"]) == (200, 2)
    num_before = again["usage"]["prompt_tokens"]
    how["chat_template_kwargs"]["date_string"] = "a much longer date than that"
    _, longer = ask(chat_server, messages=[*messages, back, {"role": "user", "content": "c"}], **how)
    assert longer["usage"]["prompt_tokens"] > num_before


def test_without_a_limit_the_context_is_one(chat_lm):
    with served(chat_lm, max_new_tokens=300) as server:
        how = {"messages": said("Hi"), "temperature": 5.0, "logit_bias": {}, "seed": 4}
        usages = [ask(server, **{**how, "seed": seed})[1]["usage"] for seed in range(4)]
        assert all(usage["total_tokens"] <= 256 for usage in usages)
        status, answer = ask(server, max_tokens=301, **how)
        assert (status, answer["error"]["param"]) == (400, "max_tokens")


HI = {"role": "user", "content": "Hi"}


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({}, "messages", "expected a list of messages, got none"),
        ({"messages": "Hi"}, "messages", "expected a list"),
        ({"messages": [7]}, "messages", "messages[0]: expected an object"),
        (
            {"messages": [HI, {"role": "tool", "content": "a"}]},
            "messages",
            "messages[1].role: expected system",
        ),
        ({"messages": [{"role": ["user"], "content": "a"}]}, "messages", "messages[0].role: expected system"),
        ({"messages": [{"role": "user"}]}, "messages", "messages[0].content: expected text"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages", "surrogate"),
        ({"messages": [{**HI, "content": [{"type": "image_url"}]}]}, "messages", 'type "text" alone'),
        ({"messages": [{**HI, "tool_calls": [{}]}]}, "messages", "messages[0].tool_calls: not supported"),
        ({"messages": [{**HI, "colour": None, "x": 1}]}, "messages", "not supported"),
        ({"messages": [HI], "tools": [{}]}, "tools", "not supported"),
        ({"messages": [HI], "response_format": {"type": "json_object"}}, "response_format", "not supported"),
        ({"messages": [HI], "prompt": "a"}, "prompt", "unknown"),
        ({"messages": [HI], "top_logprobs": 2}, "top_logprobs", "expected nothing without logprobs"),
        ({"messages": [HI], "top_logprobs": 21, "logprobs": True}, "top_logprobs", "at most 20"),
        ({"messages": [HI], "logprobs": 3}, "logprobs", "expected"),
        ({"messages": [HI], "max_tokens": 1, "max_completion_tokens": 1}, "max_tokens", "nothing beside"),
        ({"messages": [HI], "max_tokens": 0}, "max_tokens", "expected"),
        ({"messages": [HI], "stop": ["", "a"]}, "stop", "at least one character"),
        ({"messages": [HI], "stream_options": {"include_usage": True}}, "stream_options", "without stream"),
        ({"messages": [HI], "chat_template_kwargs": 7}, "chat_template_kwargs", "expected an object"),
        ({"messages": [HI], "n": 1000, "max_tokens": 1}, "n", "at most"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(chat_server, fields, param, words):
    status, answer = ask(chat_server, **{"max_tokens": 1, **fields})
    assert status == 400, answer
    assert answer["error"]["param"] == param
    assert words in answer["error"]["message"]


def test_what_the_template_refuses_is_told():
    own = chat_tokenizer("{{ raise_exception('Only one message') if messages|length > 1 else 'a' }}")
    with served(language_model(own, vocab_size=own.vocab_size)) as server:
        assert ask(server, messages=said("a"), max_tokens=1)[0] == 200
        status, answer = ask(server, messages=said("a", "b", "c"), max_tokens=1)
        assert (status, answer["error"]["param"]) == (400, "messages")
        assert "the chat template refuses the conversation: Only one message" in answer["error"]["message"]


@pytest.mark.parametrize(("template", "why"), [("", "no chat template"), ("{% if %}", "Jinja's language")])
def test_a_model_without_a_usable_template_still_completes(template, why):
    own = chat_tokenizer(template)
    with served(language_model(own, vocab_size=own.vocab_size)) as server:
        status, answer = ask(server, messages=said("a"))
        assert (status, answer["error"]["code"]) == (404, "no_chat_template")
        assert why in answer["error"]["message"]
        assert ask(server, "/v1/completions", prompt="a", max_tokens=1)[0] == 200


def test_an_error_before_the_first_token_has_a_status_of_its_own():
    own = chat_tokenizer(HEADERS)
    broken = language_model(own, vocab_size=own.vocab_size, context_length=256)
    with torch.no_grad():
        broken.model.final_norm.weight.fill_(float("nan"))
    with served(broken) as server:
        for stream in (False, True):
            status, answer = ask(server, messages=said("a"), stream=stream)
            assert (status, answer["error"]["type"]) == (500, "server_error")
