"""The process of the server: a socket, the event loop, the model's thread, and their end."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import uvicorn

from transformerlm.checkpoint.run_directory import RunDirectory
from transformerlm.config import RuntimeConfig, ServeConfig, ServeSection
from transformerlm.errors import OutputError
from transformerlm.evaluation.documents import load_for_scoring
from transformerlm.language_model import LanguageModel
from transformerlm.nn import num_parameters
from transformerlm.serve.app import Service, make_app
from transformerlm.serve.engine import Engine
from transformerlm.serve.guard import read_key

SECONDS_TO_END = 5
"""Time that answers get at the end to be read by slow clients."""


def serve(config: ServeConfig, say: Callable[[str], object]) -> None:
    """Serve a model until Ctrl-C or SIGTERM.

    Raises:
        CheckpointError: there is no model that can be loaded.
        ConfigError: the file with the key cannot be used.
        OutputError: the port is in use, or the address is not this machine's.
    """
    section = config.serve
    key = None if section.key_file is None else read_key(section.key_file)
    with listening_socket(section) as listener:
        lm, scorer = load(section.checkpoint, config.runtime, say)
        name = RunDirectory.of(lm.checkpoint).path.name
        host, port = listener.getsockname()[:2]
        say(f"{name}: {num_parameters(lm.model.config):,} parameters, on {lm.runtime}")
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
        service = Service(Engine(lm, scorer, section), name, section)
        with contextlib.suppress(KeyboardInterrupt), frozen_objects():
            asyncio.run(run(service, key, listener, lambda: say(f"{url} until Ctrl-C")))


@contextlib.contextmanager
def frozen_objects() -> Iterator[None]:
    """Keep the garbage collector from the objects that there are by now.

    Those of PyTorch's modules alone make a full collection take a tenth of a second, in which nobody is
    answered; with 64 clients there is one every few seconds.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def load(
    checkpoint: str, runtime: RuntimeConfig, say: Callable[[str], object]
) -> tuple[LanguageModel, LanguageModel]:
    """Load a model to write with, and one in the precision of `transformerlm-eval` to score with.

    They share their weights where those have one precision.
    """
    alone = dataclasses.replace(runtime, ngram_memory=False)
    scorer = load_for_scoring(Path(checkpoint).expanduser(), alone, say)
    lm = LanguageModel.load(scorer.checkpoint.path, runtime)
    scorer = dataclasses.replace(scorer, ngrams=lm.ngrams)  # if it is written with
    if lm.model.final_norm.weight.dtype == scorer.model.final_norm.weight.dtype:
        return dataclasses.replace(scorer, runtime=lm.runtime), scorer
    return lm, scorer


def listening_socket(section: ServeSection) -> socket.socket:
    """Return a socket that listens at the address.

    Raises:
        OutputError: it cannot.
    """
    try:
        family = socket.getaddrinfo(section.host, section.port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((section.host, section.port), family=family)
    except OSError as error:
        what = f"port {section.port} of {section.host}: {error.strerror or error}"
        raise OutputError(f"{what}; choose another one with --port") from None


async def run(
    service: Service, key: str | None, listener: socket.socket, when_ready: Callable[[], object]
) -> None:
    """Serve until the server is told to end.

    Args:
        when_ready: called once requests are answered.
    """
    engine = service.engine
    engine.start()
    try:
        await Server(server_config(make_app(service, key)), engine, when_ready).serve([listener])
    finally:
        engine.stop()
        await asyncio.to_thread(engine.join)


def server_config(app: object) -> uvicorn.Config:
    """Return settings of the HTTP server: no log of requests, and no trust in headers of proxies."""
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        http="h11",
        ws="none",
        loop="asyncio",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        log_level="critical",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=60,
        timeout_graceful_shutdown=SECONDS_TO_END,
    )


class Server(uvicorn.Server):
    """HTTP server whose streams end, each with an error, as soon as it is told to end.

    Args:
        when_ready: called once requests are answered.
    """

    def __init__(
        self, config: uvicorn.Config, engine: Engine, when_ready: Callable[[], object] = lambda: None
    ) -> None:
        super().__init__(config)
        self._engine, self._when_ready = engine, when_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer."""
        await super().startup(sockets)
        self._when_ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handle Ctrl-C and SIGTERM."""
        self._engine.stop()
        super().handle_exit(sig, frame)
