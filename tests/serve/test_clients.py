"""Clients that go away, that read slowly, that are many; and a model that fails."""

import asyncio
import contextlib
import http.client
import json
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import openai
import pytest
import torch

from tests.serve.servers import in_a_thread, served, serving
from tests.small_models import language_model, save_run
from transformerlm.serve import answer, app, guard, response

ENDLESS = {"prompt": "The fox", "max_tokens": 4096, "temperature": 5.0}


@pytest.fixture
def slow_lm():
    """A model that takes some milliseconds for each step and never ends a text."""
    lm = language_model()
    end = torch.tensor(lm.tokenizer.special_token_ids["<|endoftext|>"])
    lm.model.final_norm.register_forward_hook(lambda *_: time.sleep(0.003))
    lm.model.head.register_forward_hook(lambda module, args, logits: logits.index_fill(-1, end, -1e9))
    return lm


def test_the_slow_model_ends_no_text(slow_lm):
    with served(slow_lm) as server:
        answer = server.complete(**{**ENDLESS, "max_tokens": 100, "n": 30})
        assert {choice["finish_reason"] for choice in answer["choices"]} == {"length"}


def wait_until(is_so):
    """Wait for something that has to come; give up after a minute."""
    end = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.005)


def first_event(stream):
    """Read a stream up to its first event."""
    data = b""
    while b"data: " not in data:
        data += stream.recv(4096)
    return data


def test_a_client_that_goes_away_frees_its_row_for_the_next(slow_lm):
    with served(slow_lm, max_batch_size=1) as server:
        stream = server.begin_stream(**ENDLESS)
        first_event(stream)
        waiting = server.begin_stream(**{**ENDLESS, "max_tokens": 2})
        wait_until(lambda: server.metric("texts_waiting") == 1)
        steps = server.metric("steps_total")
        stream.close()
        content = b""
        while b"[DONE]" not in content:
            content += waiting.recv(4096)
        # Not the thousands of steps that the text would have had.
        assert server.metric("steps_total") - steps < 1000
        wait_until(lambda: server.metric("clients_gone_total") == 1)
        assert server.metric("texts_writing") == 0


def test_a_client_that_waits_for_a_whole_answer_may_go_away_too(slow_lm):
    with served(slow_lm, max_batch_size=2) as server:
        stream = server.begin_stream(**{**ENDLESS, "stream": False, "n": 3})
        wait_until(lambda: server.metric("texts_writing") == 2)
        stream.close()
        wait_until(lambda: server.metric("texts_writing") == 0 == server.metric("texts_waiting"))
        assert server.complete(prompt="a", max_tokens=1)


def test_many_clients_are_killed_in_mid_stream_and_the_others_are_unharmed(slow_lm):
    how = {"prompt": "The crow", "max_tokens": 60, "seed": 3, "temperature": 5.0}
    with served(slow_lm, max_batch_size=8) as server:
        expected = server.complete(**how)["choices"][0]["text"]
        for _ in range(3):
            streams = [server.begin_stream(**ENDLESS) for _ in range(12)]
            for stream in streams[:8]:
                first_event(stream)
            for stream in streams:
                stream.close()
            assert server.complete(**how)["choices"][0]["text"] == expected
        wait_until(lambda: server.metric("texts_writing") == 0 == server.metric("texts_waiting"))
        assert server.metric("errors_total") == 0


def test_a_client_that_reads_nothing_holds_nobody_up_and_gets_all_in_the_end(slow_lm):
    with served(slow_lm, max_batch_size=2, send_buffer=4096) as server:
        how = {"prompt": "The", "max_tokens": 150, "logprobs": 20, "seed": 1, "temperature": 5.0}
        expected = server.complete(**how)["choices"][0]["text"]
        slow = server.begin_stream(buffer_bytes=4096, **how)
        assert server.complete(**how)["choices"][0]["text"] == expected
        wait_until(lambda: server.metric("texts_writing") == 0)  # its row is free though it has read nothing
        whole = http.client.HTTPResponse(slow)
        whole.begin()
        content = whole.read()
        assert len(content) > 10**5  # more than fits the buffers on the way
        events = [json.loads(line[6:]) for line in content.splitlines() if line[:7] == b"data: {"]
        assert "".join(event["choices"][0]["text"] for event in events) == expected


def test_a_client_that_reads_nothing_for_too_long_is_given_up(slow_lm, monkeypatch):
    monkeypatch.setattr(response, "SEND_TIMEOUT_SECONDS", 0.2)
    with served(slow_lm, send_buffer=4096) as server:
        stuck = server.begin_stream(buffer_bytes=4096, **{**ENDLESS, "logprobs": 20})
        wait_until(lambda: server.metric("clients_gone_total") == 1)
        wait_until(lambda: server.metric("texts_writing") == 0)
        stuck.close()


def test_a_body_that_does_not_come_is_not_waited_for(slow_lm, monkeypatch):
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.1)
    with served(slow_lm) as server, socket.create_connection(("127.0.0.1", server.port)) as stuck:
        head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        stuck.sendall(f"{head}Content-Length: 100\r\n\r\n".encode())
        assert b" 408 " in stuck.recv(4096)


def test_an_error_of_the_server_itself_is_one_line_without_a_text(slow_lm, monkeypatch, capfd):
    def fail(*_):
        raise ValueError("The secret fox")

    with served(slow_lm) as server:
        for module, name in ((app, "make_job"), (answer.Answer, "pieces")):
            with monkeypatch.context() as patched:
                patched.setattr(module, name, fail)
                for stream in (False, True):
                    status, error = server.refusal(prompt="The secret fox", max_tokens=2, stream=stream)
                    assert (status, error["type"]) == (500, "server_error")
                    assert "secret" not in error["message"]
        assert server.complete(prompt="a", max_tokens=1)
    said = "".join(capfd.readouterr())
    assert said.count("error: ValueError at ") == 4
    assert "secret" not in said


def test_the_queue_is_bounded_and_says_when_to_come_again(slow_lm):
    with served(slow_lm, max_batch_size=1, max_waiting=2) as server:
        streams = [server.begin_stream(**ENDLESS) for _ in range(3)]
        wait_until(lambda: server.metric("texts_waiting") == 2)
        status, headers, content = server.ask("POST", "/v1/completions", {"prompt": "a"})
        assert (status, int(headers["retry-after"]) >= 1) == (429, True)
        assert json.loads(content)["error"]["code"] == "rate_limit_exceeded"
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        with pytest.raises(openai.RateLimitError):
            client.completions.create(model="small", prompt="a")
        for stream in streams:
            stream.close()
        wait_until(lambda: server.metric("texts_waiting") == 0)
        assert server.complete(prompt="a", max_tokens=1)


def test_who_asks_for_much_does_not_keep_others_waiting(slow_lm):
    with served(slow_lm, max_batch_size=2) as server:
        much = server.begin_stream(prompt="a", n=100, max_tokens=30, temperature=5.0)
        first_event(much)
        assert server.complete(prompt="b", max_tokens=1)
        assert server.metric("texts_waiting") > 50
        much.close()


def break_model(lm):
    with torch.no_grad():
        lm.model.final_norm.weight.fill_(float("nan"))


def test_an_error_in_mid_stream_is_an_event_of_it_and_the_server_goes_on(slow_lm, capfd):
    with served(slow_lm) as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        stream = client.completions.create(model="small", stream=True, **ENDLESS)
        next(iter(stream))
        weight = slow_lm.model.final_norm.weight.clone()
        break_model(slow_lm)
        with pytest.raises(openai.APIError, match="not numbers"):
            list(stream)
        with pytest.raises(openai.InternalServerError, match="not numbers"):  # before the first event
            client.completions.create(model="small", stream=True, **ENDLESS)
        with pytest.raises(openai.InternalServerError, match="not numbers"):
            client.completions.create(model="small", prompt="a fox", echo=True, max_tokens=0, logprobs=0)
        with torch.no_grad():
            slow_lm.model.final_norm.weight.copy_(weight)
        assert server.complete(prompt="a", max_tokens=3)
        assert server.ask("GET", "/health")[0] == 200
    assert "The fox" not in "".join(capfd.readouterr())


def test_a_text_that_cannot_be_begun_is_an_error_and_the_server_goes_on(slow_lm, monkeypatch):
    with served(slow_lm) as server:
        with monkeypatch.context() as patched:
            patched.setattr(server.engine._scorer, "text", lambda ids: 1 / 0)
            status, error = server.refusal(prompt="a fox", echo=True, logprobs=1)
            assert (status, error["type"]) == (500, "server_error")
        assert server.complete(prompt="a fox", echo=True, logprobs=1, max_tokens=1)


def test_a_stream_says_that_it_lives_while_nothing_comes(slow_lm, monkeypatch):
    monkeypatch.setattr(response, "KEEPALIVE_SECONDS", 0.02)
    with served(slow_lm, max_batch_size=1) as server:
        first = server.begin_stream(**ENDLESS)
        first_event(first)
        waiting = server.begin_stream(**ENDLESS)
        content = b""
        while content.count(b": still at work") < 3:
            content += waiting.recv(4096)
        assert b"data:" not in content
        first.close()
        assert b"data: {" in first_event(waiting)
        waiting.close()


def test_the_end_of_the_server_is_an_event_of_every_stream(slow_lm):
    with served(slow_lm, max_batch_size=1) as server:
        streams = [server.begin_stream(**ENDLESS) for _ in range(2)]
        first_event(streams[0])
        wait_until(lambda: server.metric("texts_waiting") == 1)
    for stream in streams:
        content = b""
        while data := stream.recv(65536):
            content += data
        assert b"the server is stopping" in content


async def writing(port, index, seconds):
    """Ask for texts one after the other; every fourth client leaves in the middle, every fourth reads slowly.

    Returns how many of its texts came to their end.
    """
    end, num_texts = time.monotonic() + seconds, 0
    how = {"prompt": f"The {index}", "max_tokens": 20 + index % 40, "seed": index, "stream": True}
    body = json.dumps(how).encode()
    head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    while time.monotonic() < end:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head.encode() + body)
        content = await _reading(reader, index)
        writer.close()
        assert content.startswith(b"HTTP/1.1 200 OK")
        num_texts += b"data: [DONE]" in content
    return num_texts


async def _reading(reader, index):
    content = b""
    while data := await reader.read(1024 if index % 4 == 2 else 65536):
        content += data
        if index % 4 == 1 and len(content) > 2000:
            break
        if index % 4 == 2:
            await asyncio.sleep(0.01)
    return content


async def load(port, num_clients, seconds):
    return await asyncio.gather(*(writing(port, index, seconds) for index in range(num_clients)))


@contextlib.contextmanager
def probed(port):
    """Ask for a sign of life again and again, from a process of its own; yield the list of its seconds."""
    command = [sys.executable, str(Path(__file__).with_name("health_probe.py")), str(port)]
    times: list[float] = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as probe:
        yield times
        times += json.loads(probe.communicate("")[0])


def test_sixty_four_clients_for_some_seconds(lm):
    with served(lm) as server, probed(server.port) as times:
        texts = in_a_thread(asyncio.run, load(server.port, 64, 2))
        assert all(number for index, number in enumerate(texts) if index % 4 != 1)
        wait_until(lambda: server.metric("texts_writing") == 0 == server.metric("texts_waiting"))
        assert server.metric("errors_total") == 0
    assert times  # each was answered


def test_the_event_loop_answers_while_the_model_is_busy_with_one_step():
    """What would fail if a step ran in the event loop: no answer during a step that goes on until then."""
    lm = language_model()
    begun, has_answered = threading.Event(), threading.Event()

    def step(*_):
        begun.set()
        assert has_answered.wait(60)

    lm.model.final_norm.register_forward_hook(step)
    with served(lm) as server:
        stream = server.begin_stream(prompt="a", max_tokens=1)
        assert begun.wait(60)
        for _ in range(10):
            assert server.ask("GET", "/health")[0] == 200
        has_answered.set()
        stream.close()


@pytest.mark.endurance
def test_sixty_four_clients_for_two_minutes(lm, tmp_path):
    """Fails where other work takes the processor: every sign of life has 50 ms."""
    with serving(save_run(lm, tmp_path / "run")) as process, probed(process.port) as times:
        texts = in_a_thread(asyncio.run, load(process.port, 64, 120))
        assert all(number for index, number in enumerate(texts) if index % 4 != 1)
    assert max(times) < 0.05, sorted(times)[-10:]


def test_a_streams_pieces_gather_while_many_texts_are_open_and_none_is_lost(slow_lm, monkeypatch):
    """Each piece is an event of its own, however many are sent at once."""
    monkeypatch.setattr(response, "GATHERING_SECONDS", 1000.0)
    how = {"prompt": "The", "max_tokens": 60, "seed": 1, "temperature": 5.0, "logprobs": 0}
    with served(slow_lm) as server:
        text = server.complete(**how)["choices"][0]["text"]
        stream, parts = server.begin_stream(**how), []
        while b"[DONE]" not in b"".join(parts):
            parts.append(stream.recv(1 << 20))
        stream.close()
    events = [json.loads(line[6:]) for line in b"".join(parts).splitlines() if line.startswith(b"data: {")]
    assert len(events) == 60
    assert "".join(event["choices"][0]["text"] for event in events) == text
    assert len(parts) < 10  # the first piece, and all others with the end
