"""The interface as clients use it, above all the package `openai`."""

import asyncio
import dataclasses
import itertools
import json

import openai
import pytest
import torch

from tests.serve.servers import in_a_thread, one_byte_at_a_time, served
from tests.small_models import END, bytes_only, language_model
from transformerlm.config import CorpusConfig, EvalSection, GenerationConfig
from transformerlm.evaluation.documents import score
from transformerlm.evaluation.text import Text
from transformerlm.progress import SilentReporter

PROMPT = "The fox, they've said, met"


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as found:
        yield found


def alone(lm, prompt, **settings):
    """The text that the model writes by itself."""
    defaults = {"temperature": 1.0, "top_p": 1.0, "max_new_tokens": 16}
    return lm.complete(prompt, **{**defaults, **settings})


def test_a_completion_is_what_the_model_writes_by_itself(client, lm):
    answer = client.completions.create(
        model="small", prompt=[PROMPT, "中文"], max_tokens=40, n=2, seed=7, temperature=0.9, top_p=0.95
    )
    expected = alone(
        lm, [PROMPT, "中文"], num_samples=2, seed=7, temperature=0.9, top_p=0.95, max_new_tokens=40
    )
    assert [choice.text for choice in answer.choices] == [text.text for text in expected]
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    reasons = {"eos": "stop", "stop": "stop", "length": "length"}
    assert [choice.finish_reason for choice in answer.choices] == [
        reasons[text.finish_reason] for text in expected
    ]
    assert answer.usage.prompt_tokens == len(lm.tokenizer.encode(PROMPT)) + len(lm.tokenizer.encode("中文"))
    assert answer.usage.completion_tokens == sum(len(text.token_ids) for text in expected)
    assert (answer.object, answer.model) == ("text_completion", "small")


def test_a_stream_has_the_same_text(client, lm):
    how = {"model": "small", "prompt": PROMPT, "max_tokens": 60, "seed": 3, "temperature": 0.0}
    (expected,) = alone(lm, PROMPT, temperature=0.0, max_new_tokens=60)
    chunks = list(client.completions.create(**how, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].text for chunk in chunks[:-1]) == expected.text
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-2]] == [None] * (len(chunks) - 2)
    assert chunks[-2].choices[0].finish_reason in ("stop", "length")
    assert (chunks[-1].choices, chunks[-1].usage.completion_tokens) == ([], len(expected.token_ids))
    assert len({chunk.id for chunk in chunks}) == 1


def test_many_clients_at_once_get_what_each_would_get_alone(server, lm):
    prompts = [PROMPT[: 3 + index % 20] + "né"[: index % 3] for index in range(24)]

    async def ask():
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            return await asyncio.gather(*(one(client, index) for index in range(len(prompts))))

    async def one(client, index):
        how = {"model": "small", "prompt": prompts[index], "max_tokens": 5 + index, "seed": index}
        if index % 2:
            return (await client.completions.create(**how)).choices[0].text
        stream = await client.completions.create(**how, stream=True)
        return "".join([chunk.choices[0].text async for chunk in stream])

    assert in_a_thread(asyncio.run, ask()) == [
        alone(lm, prompt, max_new_tokens=5 + index, seed=index)[0].text
        for index, prompt in enumerate(prompts)
    ]


def test_without_a_seed_each_request_has_another_text(client):
    texts = {
        client.completions.create(model="small", prompt="A", max_tokens=20).choices[0].text for _ in "123"
    }
    assert len(texts) == 3


def test_the_seed_that_was_drawn_is_told(server):
    answer = server.complete(prompt="A", max_tokens=20)
    again = server.complete(prompt="A", max_tokens=20, seed=answer["seed"])
    assert again["choices"] == answer["choices"]


def test_stop_strings_end_a_text_wherever_its_pieces_are_cut(client, lm):
    how = {"model": "small", "prompt": PROMPT, "max_tokens": 60, "temperature": 1.3}
    texts = {seed: client.completions.create(**how, seed=seed).choices[0].text for seed in range(5)}
    seed, text = max(texts.items(), key=lambda item: len(item[1]))
    stop = text[20:24]
    how |= {"seed": seed, "stop": ["never", stop]}
    (choice,) = client.completions.create(**how).choices
    assert (choice.text, choice.finish_reason) == (text[: text.index(stop)], "stop")
    assert (
        "".join(chunk.choices[0].text for chunk in client.completions.create(**how, stream=True))
        == choice.text
    )


def test_characters_of_several_tokens_arrive_whole_through_a_proxy_of_single_bytes(server):
    text = "né 中文 😀 ☃"
    with one_byte_at_a_time(server.port) as port:
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none")
        chunks = list(
            client.completions.create(
                model="small", prompt=text, echo=True, max_tokens=30, stream=True, seed=2, logprobs=1
            )
        )
    whole = client_text(server, text, 2)
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole
    assert whole.startswith(text)


def client_text(server, prompt, seed):
    answer = server.complete(prompt=prompt, echo=True, max_tokens=30, seed=seed)
    return answer["choices"][0]["text"]


def test_logprobs_are_the_models_and_stream_the_same(client, lm):
    how = {"model": "small", "prompt": PROMPT, "max_tokens": 8, "seed": 5, "logprobs": 3, "echo": True}
    (choice,) = client.completions.create(**how).choices
    log = choice.logprobs
    (expected,) = alone(lm, PROMPT, seed=5, max_new_tokens=8, log_probs=True)
    prompt_ids = lm.tokenizer.encode(PROMPT)
    ids = torch.tensor([[*prompt_ids, *expected.token_ids]])
    log_probs = torch.log_softmax(lm.model(ids)[0, :-1], -1)
    found = log_probs[range(len(log_probs)), ids[0, 1:]].tolist()
    assert log.token_logprobs[0] is None
    assert log.token_logprobs[1 : ids.shape[1]] == pytest.approx(found, abs=1e-4)
    for place, top in enumerate(log.top_logprobs[1 : ids.shape[1]]):
        assert len(top) in (3, 4)
        assert top[log.tokens[place + 1]] == log.token_logprobs[place + 1]
        assert max(top.values()) == pytest.approx(log_probs[place].max().item(), abs=1e-4)
    for token, start in zip(log.tokens, log.text_offset, strict=True):
        assert token.startswith("bytes:") or token == END or choice.text[start:].startswith(token)
    chunks = [chunk.choices[0] for chunk in client.completions.create(**how, stream=True)]
    for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        pieces = (getattr(one.logprobs, name) for one in chunks if one.logprobs)
        assert [*itertools.chain.from_iterable(pieces)] == getattr(log, name)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_scores_through_the_interface_are_those_of_transformerlm_eval(lm, dtype, tmp_path):
    """As lm-eval asks for them: the prompt is echoed with its log-probabilities."""
    texts = [PROMPT, "中文 text. " * 40, "x"]  # the second one is longer than the context
    for number, text in enumerate(texts):
        (tmp_path / f"{number}.txt").write_text(text, encoding="utf-8")
    runtime = dataclasses.replace(lm.runtime, dtype=getattr(torch, dtype))
    scorer = dataclasses.replace(lm, runtime=runtime)
    settings = EvalSection(bos_token=END, eos_token=END)
    expected = score(scorer, Text.find(CorpusConfig(), str(tmp_path)), settings, SilentReporter())
    with served(lm, scorer=scorer) as server:
        answer = server.complete(
            prompt=[f"{END}{text}{END}" for text in texts], max_tokens=0, echo=True, logprobs=1
        )
    nats = [-sum(choice["logprobs"]["token_logprobs"][1:]) for choice in answer["choices"]]
    assert nats == pytest.approx(expected.nats.tolist(), rel=1e-5 if dtype == "float32" else 1e-2)
    assert [
        len(choice["logprobs"]["tokens"]) - 1 for choice in answer["choices"]
    ] == expected.num_tokens.tolist()


def test_the_token_that_begins_texts_is_put_before_a_prompt_once():
    own = language_model(kernels=True, generation=GenerationConfig(bos_token="<|user|>"))
    how = {"max_tokens": 4, "temperature": 0, "echo": True, "logprobs": 0}
    with served(own) as server:
        plain = server.complete(prompt="The fox", **how)
        begun = server.complete(prompt="<|user|>The fox", **how)
    num_prompt = len(own.tokenizer.encode("The fox"))
    assert [one["usage"]["prompt_tokens"] for one in (plain, begun)] == [num_prompt, num_prompt + 1]
    (a,), (b,) = plain["choices"], begun["choices"]
    assert b["text"] == "<|user|>" + a["text"]
    assert b["logprobs"]["token_logprobs"] == [None, *a["logprobs"]["token_logprobs"]]


def test_a_token_that_ends_the_text_is_scored_too(lm):
    """lm-eval leaves out the last entry, of the one token that it has written: there has to be one."""
    ending = language_model(kernels=True)
    with torch.no_grad():
        ending.model.head.weight.zero_()
        ending.model.head.weight[ending.tokenizer.special_token_ids[END]] = ending.model.final_norm.weight
    with served(ending) as server:
        answer = server.complete(prompt=PROMPT, max_tokens=1, echo=True, logprobs=1, temperature=0)
    (choice,) = answer["choices"]
    num_prompt = len(ending.tokenizer.encode(PROMPT))
    assert len(choice["logprobs"]["token_logprobs"]) == num_prompt + 1
    if choice["finish_reason"] == "stop":
        assert (choice["text"], choice["logprobs"]["tokens"][-1]) == (PROMPT, END)
    assert answer["usage"]["completion_tokens"] == (0 if choice["finish_reason"] == "stop" else 1)


def test_the_prompt_comes_first_whatever_is_wanted_of_it(server, lm):
    ids = lm.tokenizer.encode(PROMPT)
    for prompt in (PROMPT, ids):
        for logprobs in (None, 2):
            for max_tokens in (0, 3):
                answer = server.complete(
                    prompt=prompt, echo=True, logprobs=logprobs, max_tokens=max_tokens, seed=1
                )
                (choice,) = answer["choices"]
                assert choice["text"].startswith(PROMPT)
                assert (choice["text"] == PROMPT) == (max_tokens == 0)
                assert (choice["logprobs"] is None) == (logprobs is None)


def test_a_prompt_longer_than_the_context_is_said_to_be_cut(server, lm):
    prompt = PROMPT * 10
    answer = server.complete(prompt=prompt, max_tokens=5, seed=1)
    with pytest.warns(UserWarning, match="longer than the model's context"):
        (expected,) = alone(lm, prompt, seed=1, max_new_tokens=5)
    assert answer["choices"][0]["text"] == expected.text
    assert answer["usage"]["prompt_tokens_unseen"] == expected.num_cut_tokens > 0


def test_the_model_is_listed(client):
    (model,) = client.models.list().data
    assert client.models.retrieve(model.id).id == model.id == "small"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("../../etc/passwd")
    with pytest.raises(openai.NotFoundError) as caught:
        client.completions.create(model="gpt-4", prompt="a")
    assert caught.value.code == "model_not_found"


def test_errors_have_openais_form(client, server):
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="small", prompt="a", suffix="b")
    assert caught.value.param == "suffix"
    with pytest.raises(openai.BadRequestError, match="max_tokens: expected at most 4096"):
        client.completions.create(model="small", prompt="a", max_tokens=4097)
    with pytest.raises(openai.BadRequestError, match="expected ids from 0 to"):
        client.completions.create(model="small", prompt=[10**6])
    with pytest.raises(openai.BadRequestError, match="at most 256 texts"):
        client.completions.create(model="small", prompt="a", n=257)
    for method, path, status in (
        ("GET", "/v1/completions", 405),
        ("POST", "/v1/embeddings", 404),
        ("GET", "/config.toml", 404),
        ("GET", "/../config.toml", 404),
        ("OPTIONS", "/v1/completions", 405),
    ):
        found, headers, content = server.ask(method, path)
        assert found == status
        assert headers["content-type"] == "application/json"
        assert json.loads(content)["error"]["type"] == "invalid_request_error"
        assert not [name for name in headers if name.lower().startswith("access-control")]


def test_an_empty_prompt_starts_from_the_token_that_begins_texts(server, lm):
    answer = server.complete(prompt="", max_tokens=5, seed=1, echo=True, logprobs=0)
    (expected,) = alone(lm, "", seed=1, max_new_tokens=5)
    assert answer["choices"][0]["text"] == expected.text
    assert answer["usage"]["prompt_tokens"] == 0
    bare = language_model(
        bytes_only(), generation=GenerationConfig(eos_token="", prompts=("a",)), vocab_size=256
    )
    with served(bare) as without:
        status, error = without.refusal(prompt="", max_tokens=3)
    assert (status, error["param"]) == (400, "prompt")
