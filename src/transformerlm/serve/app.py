"""The routes of the server."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import time
from collections.abc import Callable
from http import HTTPStatus
from importlib import resources

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from transformerlm.config import GenerationConfig, ServeSection
from transformerlm.errors import ConfigError, DataError
from transformerlm.infer.chat import ChatFormat
from transformerlm.infer.stopping import StopConditions
from transformerlm.serve.answer import Answer, Json
from transformerlm.serve.chat_answer import ChatAnswer
from transformerlm.serve.chat_request import parse_chat
from transformerlm.serve.engine import Engine
from transformerlm.serve.errors import ApiError, unexpected
from transformerlm.serve.guard import Guard, error_response, read_body
from transformerlm.serve.job import Job, make_job
from transformerlm.serve.request import CompletionRequest, check_model, parse
from transformerlm.serve.response import CompletionResponse
from transformerlm.serve.statistics import CONTENT_TYPE

SMALL_BODY_BYTES = 16_384
"""Size from which a body is parsed and encoded beside the event loop, which would stand still meanwhile."""


class Service:
    """The answers of the server.

    Args:
        name: of the model.

    Raises:
        ConfigError: the run's own [generation] names a special token that its tokenizer lacks.
    """

    def __init__(self, engine: Engine, name: str, limits: ServeSection) -> None:
        self.engine, self.name, self.limits = engine, name, limits
        self.generation = engine.lm.generation
        StopConditions.from_config(self.generation, engine.lm.tokenizer)
        self._chat: ChatFormat | None = None
        try:
            self._chat = ChatFormat(engine.lm.tokenizer)
        except (ConfigError, DataError) as error:
            self._why_no_chat = str(error)
        self._created = int(time.time())
        self._page = resources.files("transformerlm.serve").joinpath("page.html").read_text("utf-8")
        self._policy = policy(self._page)

    async def completions(self, request: Request) -> Response:
        """Answer POST /v1/completions."""
        return await self._answer(request, self._parsed, Answer)

    async def chat_completions(self, request: Request) -> Response:
        """Answer POST /v1/chat/completions."""
        return await self._answer(request, self._parsed_chat, ChatAnswer)

    async def _answer(
        self, request: Request, parsed: Callable[[bytes], Job], kind: type[Answer]
    ) -> CompletionResponse:
        answers = self.engine.statistics.answers
        try:
            body = await read_body(request, self.limits.max_body_bytes)
            job = await self._job(body, parsed)
            self.engine.submit(job)
        except ApiError as error:
            answers[error.status] += 1
            raise

        def note(status: HTTPStatus | None) -> None:
            if status is None:
                self.engine.statistics.clients_gone += 1
            else:
                answers[status] += 1

        return CompletionResponse(job, kind(job, self.engine.lm, self.name), self.engine, note)

    async def _job(self, body: bytes, parsed: Callable[[bytes], Job]) -> Job:
        if len(body) < SMALL_BODY_BYTES:
            await self.engine.turns.wait()
            return parsed(body)
        return await asyncio.to_thread(parsed, body)

    def _parsed(self, body: bytes) -> Job:
        request = parse(body)
        check_model(request.fields.model, self.name)
        return self._made(request, self.generation)

    def _parsed_chat(self, body: bytes) -> Job:
        request = parse_chat(body)
        check_model(request.fields.model, self.name)
        if self._chat is None:
            what = f"{self.name}: {self._why_no_chat}; /v1/completions does"
            raise ApiError(HTTPStatus.NOT_FOUND, what, code="no_chat_template")
        context_length = self.engine.lm.model.config.context_length
        completion = request.as_completion(self._chat, context_length, self.limits.max_new_tokens)
        return self._made(completion, self._chat.settings(self.generation))

    def _made(self, request: CompletionRequest, generation: GenerationConfig) -> Job:
        """Return the job of a request.

        Args:
            generation: the tokens that begin and end texts.
        """
        if request.fields.max_tokens > self.limits.max_new_tokens:
            got = f"got {request.fields.max_tokens}"
            what = f"max_tokens: expected at most {self.limits.max_new_tokens}, {got}"
            raise ApiError(HTTPStatus.BAD_REQUEST, what, param="max_tokens")
        return make_job(self.engine.lm, generation, request)

    async def models(self, request: Request) -> Response:
        """Answer GET /v1/models."""
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def model(self, request: Request) -> Response:
        """Answer GET /v1/models/NAME."""
        check_model(request.path_params["name"], self.name)
        return JSONResponse(self._model())

    def _model(self) -> Json:
        shape = self.engine.lm.model.config
        return {
            "id": self.name,
            "object": "model",
            "created": self._created,
            "owned_by": "transformerlm",
            "context_length": shape.context_length,
            "max_tokens": self.limits.max_new_tokens,
            "defaults": {
                "temperature": self.generation.temperature,
                "top_p": self.generation.top_p,
                "max_tokens": self.generation.max_new_tokens,
            },
        }

    async def health(self, request: Request) -> Response:
        """Answer GET /health."""
        is_alive = self.engine.is_alive
        status = HTTPStatus.OK if is_alive else HTTPStatus.SERVICE_UNAVAILABLE
        return JSONResponse({"status": "ok" if is_alive else "the model has stopped"}, status)

    async def metrics(self, request: Request) -> Response:
        """Answer GET /metrics."""
        return PlainTextResponse(self.engine.statistics.lines(), media_type=CONTENT_TYPE)

    async def page(self, request: Request) -> Response:
        """Answer GET /."""
        return HTMLResponse(self._page, headers={"Content-Security-Policy": self._policy})


def policy(page: str) -> str:
    """Return the page's policy: its own script and style, requests to this server, and nothing else."""

    def hashes(tag: str) -> str:
        parts = re.findall(rf"<{tag}>(.*?)</{tag}>", page, flags=re.DOTALL)
        digests = [base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in parts]
        return " ".join(f"'sha256-{digest}'" for digest in digests)

    own = f"script-src {hashes('script')}; style-src {hashes('style')}; connect-src 'self'; img-src data:"
    return f"default-src 'none'; {own}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


def make_app(service: Service, key: str | None) -> Guard:
    """Return the application, behind its guard."""
    routes = [
        Route("/", service.page),
        Route("/health", service.health),
        Route("/metrics", service.metrics),
        Route("/v1/models", service.models),
        Route("/v1/models/{name:path}", service.model),
        Route("/v1/completions", service.completions, methods=["POST"]),
        Route("/v1/chat/completions", service.chat_completions, methods=["POST"]),
    ]
    handlers = {ApiError: _answer_error, HTTPException: _answer_http, Exception: _answer_unexpected}
    app = Starlette(routes=routes, exception_handlers=handlers)  # type: ignore[arg-type]
    return Guard(app, service.limits, key)


async def _answer_error(request: Request, error: ApiError) -> Response:
    return error_response(error)


async def _answer_unexpected(request: Request, error: Exception) -> Response:
    return error_response(unexpected(error))


async def _answer_http(request: Request, error: HTTPException) -> Response:
    """Return the error of an unknown path, or of a method that a path does not have."""
    status = HTTPStatus(error.status_code)
    headers = dict(error.headers or {})
    return error_response(ApiError(status, f"{request.method} {status.phrase.lower()}", headers=headers))
