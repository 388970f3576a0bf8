"""Turns of the event loop's tasks."""

import asyncio
from collections import Counter

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


@pytest.mark.parametrize(("per_round", "expected"), [(1000, [20]), (8, [8, 8, 4]), (1, [1] * 20)])
def test_a_round_has_a_few_turns_and_the_others_come_in_the_next_ones_in_order(
    per_round, expected, monkeypatch
):
    monkeypatch.setattr(turns, "TURNS_PER_ROUND", per_round)
    came = in_a_thread(asyncio.run, rounds_of(20))
    assert [task for task, _ in came] == [*range(20)]
    assert [*Counter(number for _, number in came).values()] == expected


def test_a_task_that_was_cancelled_takes_no_turn(monkeypatch):
    monkeypatch.setattr(turns, "TURNS_PER_ROUND", 1)

    async def some_cancelled():
        own, came = Turns(), []

        async def work(task):
            await own.wait()
            came.append(task)

        tasks = [asyncio.create_task(work(task)) for task in range(5)]
        await asyncio.sleep(0)
        for task in (1, 3):
            tasks[task].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return came

    assert in_a_thread(asyncio.run, some_cancelled()) == [0, 2, 4]


@pytest.mark.parametrize("stream", [False, True])
def test_answers_are_the_same_however_few_turns_a_round_has(lm, monkeypatch, stream):
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
        monkeypatch.setattr(turns, "TURNS_PER_ROUND", 1)
        assert in_a_thread(asyncio.run, ask(server.port)) == expected
