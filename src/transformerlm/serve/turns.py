"""Turns of the event loop's tasks, so that a short request is answered while many others have work for it."""

from __future__ import annotations

import asyncio
import time

ROUND_SECONDS = 0.002
"""Time after which the tasks that are left wait for the next round. A request on a new connection takes five
rounds."""


class Turns:
    """A bound on the work of each round of the event loop.

    In a round the loop runs all that is ready, and only then looks at its sockets: work for 64 clients at
    once would keep the next one waiting for all of it. At least one task has its turn in each round; the
    others come in the order in which they asked.
    """

    def __init__(self) -> None:
        self._end = 0.0
        self._is_begun = False
        """True from the first turn of a round to the beginning of the next round."""

    async def wait(self) -> None:
        """Wait for a round in which there is time left; most often that is now."""
        while self._is_begun and time.perf_counter() > self._end:
            await asyncio.sleep(0)
        if not self._is_begun:
            self._is_begun = True
            self._end = time.perf_counter() + ROUND_SECONDS
            asyncio.get_running_loop().call_soon(self._end_round)

    def _end_round(self) -> None:
        self._is_begun = False
