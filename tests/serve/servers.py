"""Servers in threads of the test's process, and clients that misbehave."""

import asyncio
import concurrent.futures
import contextlib
import http.client
import json
import re
import socket
import subprocess
import sys
import threading

from transformerlm.config import ServeSection
from transformerlm.serve.app import Service, make_app
from transformerlm.serve.engine import Engine
from transformerlm.serve.server import Server, listening_socket, server_config

KEY = "a-key-that-is-long-enough"


class Served:
    """A server that is running."""

    def __init__(self, port: int, engine: Engine, name: str) -> None:
        self.port, self.engine, self.name = port, engine, name
        self.url = f"http://127.0.0.1:{port}"

    def ask(self, method, path, body=None, **headers):
        """Return status, headers and content of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        if data is not None:
            headers.setdefault("Content_Type", "application/json")
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, data, named)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, dict(answer.getheaders()), content

    def complete(self, **fields):
        """Return the answer to a request for a completion, which must succeed."""
        status, _, content = self.ask("POST", "/v1/completions", fields)
        assert status == 200, content
        return json.loads(content)

    def refusal(self, **fields):
        """Return status and error of a request for a completion, which must fail."""
        status, _, content = self.ask("POST", "/v1/completions", fields)
        assert status >= 400, content
        return status, json.loads(content)["error"]

    def metric(self, name):
        """Return a number of /metrics."""
        _, _, content = self.ask("GET", "/metrics")
        lines = dict(line.rsplit(" ", 1) for line in content.decode().splitlines() if line[0] != "#")
        return float(lines[f"transformerlm_{name}"])

    def begin_stream(self, buffer_bytes=None, **fields):
        """Return a socket on which a stream has been asked for, and nothing been read."""
        own = socket.socket()
        if buffer_bytes is not None:
            own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        own.connect(("127.0.0.1", self.port))
        body = json.dumps({"stream": True, **fields}).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost:{self.port}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        own.sendall(head.encode() + body)
        return own


@contextlib.contextmanager
def served(lm, name="small", key=None, scorer=None, send_buffer=None, **limits):
    """Yield a server for a model, at a free port; `send_buffer` bounds what waits for a client, in bytes."""
    section = ServeSection(port=0, **limits)
    engine = Engine(lm, scorer or lm, section)
    app = make_app(Service(engine, name, section), key)
    server = Server(server_config(app), engine)
    with listening_socket(section) as listener:
        if send_buffer is not None:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        started = threading.Event()

        async def run():
            engine.start()
            started.set()
            await server.serve([listener])
            engine.stop()
            await asyncio.to_thread(engine.join)

        thread = threading.Thread(target=lambda: asyncio.run(run()))
        thread.start()
        started.wait()
        try:
            yield Served(listener.getsockname()[1], engine, name)
        finally:
            server.handle_exit(2, None)
            thread.join()


class Process(Served):
    """A server in a process of its own, by its command."""

    def __init__(self, popen, port, said) -> None:
        super().__init__(port, None, "")
        self.popen, self.said = popen, said


@contextlib.contextmanager
def serving(run, *arguments):
    """Yield a process of transformerlm-serve once it listens."""
    command = [sys.executable, "-m", "transformerlm.cli.serve", str(run), "--port", "0", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as popen:
        said = []
        try:
            for line in popen.stderr:
                said.append(line)
                if found := re.match(r"http://\S+:(\d+)/", line):
                    yield Process(popen, int(found[1]), said)
                    break
        finally:
            popen.kill()


@contextlib.contextmanager
def one_byte_at_a_time(port):
    """Yield the port of a proxy that passes answers on one byte at a time."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_accept, args=(listener, port), daemon=True).start()
        yield listener.getsockname()[1]


def _accept(listener, port):
    with contextlib.suppress(OSError):
        while True:
            client, _ = listener.accept()
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            server = socket.create_connection(("127.0.0.1", port))
            threading.Thread(target=_pass, args=(client, server, 65536), daemon=True).start()
            threading.Thread(target=_pass, args=(server, client, 1), daemon=True).start()


def _pass(source, target, size):
    with contextlib.suppress(OSError), source, target:
        while data := source.recv(size):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def in_a_thread(function, *arguments):
    """Return what a function returns in a thread of its own, which has no event loop.

    The thread of the tests has one that runs, once a browser was started in it.
    """
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        return executor.submit(function, *arguments).result()
