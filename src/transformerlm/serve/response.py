"""Responses to requests for completions: whole, or a stream of events.

Both end their job when the client goes away, however that happens.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from transformerlm.serve.answer import Answer, Json
from transformerlm.serve.engine import Engine
from transformerlm.serve.errors import ApiError, unexpected
from transformerlm.serve.job import Event, Job

KEEPALIVE_SECONDS = 10.0
"""Time without an event after which a stream gets a comment, so that nobody on the way closes it."""
SEND_TIMEOUT_SECONDS = 120.0
"""Time for which a client may read nothing at all."""
GATHERING_SECONDS = 0.001
"""Time for each text that is written, during which the pieces of a stream gather after one was sent: each
sending takes the event loop part of a millisecond, so that many streams would keep it from all else."""
HEADERS = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))


class ClientGone(Exception):  # noqa: N818 - it is not an error
    """The client has gone away, or reads nothing."""


class CompletionResponse(Response):
    """The answer to a job that has been submitted.

    Args:
        note: called with the status of the answer, or None if the client has gone away.
    """

    def __init__(
        self, job: Job, answer: Answer, engine: Engine, note: Callable[[HTTPStatus | None], None]
    ) -> None:
        super().__init__()
        self.background = None
        self._job, self._answer, self._engine, self._note = job, answer, engine, note
        self._is_gone = self._is_begun = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer."""
        watch = asyncio.create_task(self._watch(receive))
        try:
            await (self._stream(send) if self._job.fields.stream else self._whole(send))
            self._note(HTTPStatus.OK)
        except ApiError as error:
            self._note(error.status)
            with contextlib.suppress(ClientGone):
                await self._send_error(send, error)
        except ClientGone:
            self._note(None)
        except Exception as error:
            self._note(HTTPStatus.INTERNAL_SERVER_ERROR)
            with contextlib.suppress(ClientGone):
                await self._send_error(send, unexpected(error))
        finally:
            self._engine.cancel(self._job)
            watch.cancel()

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._is_gone = True
        self._job.news.set()

    async def _whole(self, send: Send) -> None:
        pieces = self._answer.beginning()
        self._job.is_gathering = True
        while not self._is_complete:
            pieces += self._answer.pieces(await self._next_events())
        await self._send_json(send, HTTPStatus.OK, self._answer.whole(pieces), {})

    async def _stream(self, send: Send) -> None:
        """Send an event for each piece. Until the first one, an error still has a status of its own."""
        data = events_of(map(self._answer.chunk, self._answer.beginning()))
        while not self._is_complete:
            if data:
                num_texts = min(self._engine.num_open, self._engine.limits.max_batch_size)
                self._job.gather_for(num_texts * GATHERING_SECONDS)
                await self._send_part(send, data)
            try:
                async with asyncio.timeout(KEEPALIVE_SECONDS):
                    events = await self._next_events()
                data = events_of(map(self._answer.chunk, self._answer.pieces(events)))
            except TimeoutError:
                data = b": still at work\n\n"
        if self._job.fields.include_usage:
            data += events_of([self._answer.usage_chunk()])
        await self._send_part(send, data + b"data: [DONE]\n\n", more=False)

    @property
    def _is_complete(self) -> bool:
        return not self._job.num_open and not self._job.events

    async def _next_events(self) -> list[Event]:
        """Wait for events, and return all that there are: a client that reads slowly gets many at once.

        Raises:
            ApiError: the job has failed.
            ClientGone: nobody waits for them.
        """
        await self._job.news.wait()
        await self._engine.turns.wait()
        if self._is_gone:
            raise ClientGone
        events = self._job.take()
        for event in events:
            if event.error is not None:
                raise event.error
        return events

    async def _send_error(self, send: Send, error: ApiError) -> None:
        if self._is_begun:
            await self._send_part(send, events_of([error.body]), more=False)
        else:
            await self._send_json(send, error.status, error.body, error.headers)

    async def _send_part(self, send: Send, data: bytes, *, more: bool = True) -> None:
        if not self._is_begun:
            self._is_begun = True
            kind = (b"content-type", b"text/event-stream; charset=utf-8")
            headers = [kind, (b"x-accel-buffering", b"no"), *HEADERS]
            await self._send(send, {"type": "http.response.start", "status": 200, "headers": headers})
        await self._send(send, {"type": "http.response.body", "body": data, "more_body": more})

    async def _send_json(self, send: Send, status: HTTPStatus, value: Json, headers: dict[str, str]) -> None:
        body = json.dumps(value, allow_nan=False).encode()
        listed = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            *((name.lower().encode(), text.encode()) for name, text in headers.items()),
            *HEADERS,
        ]
        await self._send(send, {"type": "http.response.start", "status": int(status), "headers": listed})
        await self._send(send, {"type": "http.response.body", "body": body})

    async def _send(self, send: Send, message: Any) -> None:
        """Send a message as fast as the client reads.

        Raises:
            ClientGone: it reads nothing, or has gone away.
        """
        if self._is_gone:
            raise ClientGone
        try:
            async with asyncio.timeout(SEND_TIMEOUT_SECONDS):
                await send(message)
        except (TimeoutError, OSError):
            raise ClientGone from None


def events_of(values: Any) -> bytes:
    """Return JSON values as server-sent events. In ASCII: no character can be cut in two on the way."""
    return b"".join(b"data: %b\n\n" % json.dumps(value, allow_nan=False).encode() for value in values)
