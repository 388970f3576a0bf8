"""Who may ask: names of the server, pages of other sites, the key, sizes.

A page of another site that a browser shows can send requests to this machine, under whatever name its owner
gives to this address. So a request has to name the server as one of its own names, must not come from another
origin, and carries JSON, which such a page may not send without a permission that nobody gets.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ipaddress
from collections.abc import AsyncIterator
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from transformerlm.config import ServeSection
from transformerlm.errors import ConfigError, Key
from transformerlm.serve.errors import ApiError

MIN_KEY_LENGTH = 16
BODY_SECONDS = 60.0
"""Time for the body of a request to arrive."""
DRAINED, DRAIN_SECONDS = 32, 2.0
"""Of a body that is too large: times the largest one that are still read, and the time for that."""
CLOSE = {"Connection": "close"}
"""Header of an answer to a request of which a part is left unread."""
OPEN_PATHS = ("/", "/health")
"""Paths that need no key: the page, which asks for it, and the sign of life."""


def read_key(path: str) -> str:
    """Return the key in a file.

    Raises:
        ConfigError: there is no such file, or no key that is hard to guess.
    """
    key = Key("serve", "key_file")
    try:
        text = Path(path).expanduser().read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not ASCII"
        raise ConfigError(f"expected a file with a key, got {path}: {why}", key=key) from None
    if len(text) < MIN_KEY_LENGTH or not text.isprintable() or " " in text:
        what = f"expected a key of at least {MIN_KEY_LENGTH} characters in one word"
        raise ConfigError(f"{what}; for one: openssl rand -hex 24", key=key)
    return text


class Guard:
    """ASGI middleware that refuses requests before anything of them is read but their headers."""

    def __init__(self, app: ASGIApp, limits: ServeSection, key: str | None) -> None:
        self._app, self._key = app, key
        self._names = {"localhost", limits.host.lower(), *(name.lower() for name in limits.allowed_hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer with an error."""
        if scope["type"] != "http":
            return
        try:
            self._check(Headers(scope=scope), scope["path"])
        except ApiError as error:
            await error_response(error)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _check(self, headers: Headers, path: str) -> None:
        """Raise ApiError for a request that may not be answered."""
        if len(headers.getlist("host")) > 1:
            what = "expected one Host header, got several"
            raise ApiError(HTTPStatus.BAD_REQUEST, what, code="several_hosts")
        host = headers.get("host", "")
        if not self._is_own(host):
            what = "the server is not known by this name; add it with --serve.allowed_hosts"
            raise ApiError(HTTPStatus.FORBIDDEN, what, code="host_not_allowed")
        origin = headers.get("origin")
        is_foreign = origin is not None and urlsplit(origin).netloc.lower() != host.lower()
        if is_foreign or headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            what = "pages of other sites may not use this server"
            raise ApiError(HTTPStatus.FORBIDDEN, what, code="origin_not_allowed")
        if self._key is not None and path not in OPEN_PATHS and not self._has_key(headers):
            what = "expected the header Authorization: Bearer KEY with the key of this server"
            raise ApiError(
                HTTPStatus.UNAUTHORIZED,
                what,
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    def _is_own(self, host: str) -> bool:
        """Return True for one of the server's names, and for any address: nobody else can give it one."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
            if name in self._names:
                return True
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _has_key(self, headers: Headers) -> bool:
        assert self._key is not None
        kind, _, given = headers.get("authorization", "").partition(" ")
        is_right = hmac.compare_digest(given.strip().encode("utf-8", "replace"), self._key.encode())
        return kind.lower() == "bearer" and is_right


async def read_body(request: Request, max_bytes: int) -> bytes:
    """Return the body of a request in JSON, of at most `max_bytes`.

    Raises:
        ApiError: 413 for a larger one, 415 for another type, 408 for one that does not come.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        what = "expected the header Content-Type: application/json"
        raise ApiError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, what, code="unsupported_media_type")
    body, stream = bytearray(), request.stream()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in stream:
                body += part
                if len(body) > max_bytes:
                    break
    except ClientDisconnect:
        raise ApiError(HTTPStatus.BAD_REQUEST, "the request ended before its body") from None
    except TimeoutError:
        what = f"the body did not come within {BODY_SECONDS:g} s"
        raise ApiError(HTTPStatus.REQUEST_TIMEOUT, what, headers=CLOSE) from None
    if len(body) > max_bytes:
        await _drain(stream, DRAINED * max_bytes)
        what = f"expected a body of at most {max_bytes:,} bytes"
        status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        raise ApiError(status, what, code="body_too_large", headers=CLOSE)
    return bytes(body)


async def _drain(stream: AsyncIterator[bytes], max_bytes: int) -> None:
    """Read on and keep nothing: a client that still sends when its connection is closed sees no answer."""
    with contextlib.suppress(TimeoutError, ClientDisconnect):
        async with asyncio.timeout(DRAIN_SECONDS):
            async for part in stream:
                max_bytes -= len(part)
                if max_bytes < 0:
                    return


def error_response(error: ApiError) -> JSONResponse:
    """Return an error in OpenAI's form."""
    headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", **error.headers}
    return JSONResponse(error.body, error.status, headers)
