"""Turns of the event loop's tasks, so that a short request is answered while many others have work for it."""

from __future__ import annotations

import asyncio
from collections import deque

TURNS_PER_ROUND = 8
"""Tasks that have their turns before the loop looks for others: reading a request or sending a piece takes
part of a millisecond. A request on a new connection takes five rounds."""


class Turns:
    """A bound on the work of each round of the event loop.

    In a round the loop runs all that is ready, and only then looks at its sockets: work for 64 clients at
    once would keep the next one waiting for all of it. Tasks have their turns in the order in which they
    asked.
    """

    def __init__(self) -> None:
        self._num_given = 0
        """Turns of this round."""
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def wait(self) -> None:
        """Wait for a round that has a turn left; most often that is this one."""
        loop = asyncio.get_running_loop()
        if self._num_given == TURNS_PER_ROUND:
            self._waiting.append(loop.create_future())
            await self._waiting[-1]
            return
        self._num_given += 1
        if self._num_given == 1:
            loop.call_soon(self._begin_round)

    def _begin_round(self) -> None:
        self._num_given = 0
        while self._waiting and self._num_given < TURNS_PER_ROUND:
            future = self._waiting.popleft()
            if not future.done():  # the task goes on, and was not cancelled
                future.set_result(None)
                self._num_given += 1
        if self._num_given:
            asyncio.get_running_loop().call_soon(self._begin_round)
