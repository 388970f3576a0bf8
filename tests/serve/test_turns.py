"""Turns of the event loop's tasks."""

import asyncio

import pytest

from tests.serve.servers import in_a_thread, served
from transformerlm.serve import turns
from transformerlm.serve.turns import Turns


async def rounds_of(num_tasks: int) -> list[tuple[int, int]]:
    """Let tasks ask for turns at once; return their numbers with the rounds of the loop, as they came."""
    own, came, number = Turns(), [], 0

    def count():
        nonlocal number
        number += 1
        loop.call_soon(count)

    async def work(task):
        await own.wait()
        came.append((task, number))

    loop = asyncio.get_running_loop()
    loop.call_soon(count)
    await asyncio.gather(*map(work, range(num_tasks)))
    return came


def test_tasks_go_on_in_one_round_while_it_has_time_left(monkeypatch):
    monkeypatch.setattr(turns, "ROUND_SECONDS", 1000.0)
    came = in_a_thread(asyncio.run, rounds_of(20))
    assert [task for task, _ in came] == [*range(20)]
    assert len({number for _, number in came}) == 1


def test_a_round_whose_time_is_over_leaves_the_others_to_the_next_ones_in_order(monkeypatch):
    monkeypatch.setattr(turns, "ROUND_SECONDS", -1.0)
    came = in_a_thread(asyncio.run, rounds_of(20))
    assert [task for task, _ in came] == [*range(20)]
    first = came[0][1]
    assert [number for _, number in came] == [*range(first, first + 20)]


@pytest.mark.parametrize("stream", [False, True])
def test_answers_are_the_same_however_short_the_rounds_are(lm, monkeypatch, stream):
    how = {"prompt": ["The fox", "The crow", "a"], "max_tokens": 30, "seed": 2, "n": 4, "stream": stream}

    async def ask(port):
        from openai import AsyncOpenAI

        client = AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none")

        async def texts():
            answer = await client.completions.create(model="small", **how)
            found = [""] * 12
            if not stream:
                return [choice.text for choice in answer.choices]
            async for chunk in answer:
                for choice in chunk.choices:
                    found[choice.index] += choice.text
            return found

        return await asyncio.gather(*(texts() for _ in range(4)))

    with served(lm) as server:
        expected = in_a_thread(asyncio.run, ask(server.port))
        assert all(texts == expected[0] for texts in expected)
        monkeypatch.setattr(turns, "ROUND_SECONDS", -1.0)
        assert in_a_thread(asyncio.run, ask(server.port)) == expected
