"""Errors of the interface, in OpenAI's form."""

from __future__ import annotations

import traceback
from http import HTTPStatus
from typing import Any

from transformerlm.errors import TransformerLMError
from transformerlm.logging import say

INVALID, SERVER = "invalid_request_error", "server_error"


class ApiError(Exception):
    """An answer other than success.

    Args:
        message: for the person who reads it; never text of a prompt or of the model.
        param: the field of the request that is wrong.
        code: OpenAI's short name for the error.
        headers: further headers of the answer.
    """

    def __init__(
        self,
        status: HTTPStatus,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = headers or {}

    @property
    def body(self) -> dict[str, Any]:
        """The body of the answer, or an event of a stream that has begun."""
        kind = SERVER if self.status >= HTTPStatus.INTERNAL_SERVER_ERROR else INVALID
        if self.status == HTTPStatus.TOO_MANY_REQUESTS:
            kind = "rate_limit_error"
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """Return the error for a request that cannot be used."""
    return ApiError(HTTPStatus.BAD_REQUEST, message, param=param, code=code)


def unexpected(error: Exception) -> ApiError:
    """Note an error on stderr, where it happened and not what it says, which may be somebody's text.

    Returns:
        The answer to those whom it concerns.
    """
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "an unknown place"
    say(f"error: {type(error).__name__} at {place}")
    # Errors of this package say nothing of a text; those of libraries might.
    is_own = isinstance(error, TransformerLMError)
    return ApiError(HTTPStatus.INTERNAL_SERVER_ERROR, str(error) if is_own else "the server has failed")


def stopping() -> ApiError:
    """Return the error for texts that the end of the server cuts off."""
    return ApiError(HTTPStatus.SERVICE_UNAVAILABLE, "the server is stopping", code="stopping")


def overloaded(num_waiting: int, seconds: int) -> ApiError:
    """Return the error for a request for which there is no place in the queue."""
    return ApiError(
        HTTPStatus.TOO_MANY_REQUESTS,
        f"{num_waiting} texts are waiting, as many as may: try again in {seconds} s",
        code="rate_limit_exceeded",
        headers={"Retry-After": str(seconds)},
    )
