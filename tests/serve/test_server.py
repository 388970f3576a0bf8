"""The command and its process."""

import gc
import signal
import socket

import pytest
import uvicorn

from tests.serve.servers import KEY, in_a_thread, serving
from tests.small_models import language_model, save_run
from transformerlm.cli import serve
from transformerlm.config import RuntimeConfig, ServeConfig, ServeSection
from transformerlm.language_model import LanguageModel
from transformerlm.serve import server


@pytest.fixture(scope="module")
def run(tmp_path_factory, lm):
    return save_run(lm, tmp_path_factory.mktemp("runs") / "fables")


def test_a_run_is_served_until_ctrl_c(run):
    # "auto" measures which precision is faster, in each process.
    with serving(run, "--runtime.dtype=float32") as process:
        assert process.said[0].startswith("fables: ")
        answer = process.complete(prompt="The fox", max_tokens=20, seed=3, model="fables")
        own = LanguageModel.load(run, RuntimeConfig(dtype="float32"))
        how = {"max_new_tokens": 20, "temperature": 1.0, "top_p": 1.0, "seed": 3}
        assert answer["choices"][0]["text"] == own.generate("The fox", **how)
        stream = process.begin_stream(prompt="The secret fox", max_tokens=4096, temperature=5.0)
        while b"data: " not in stream.recv(65536):
            pass
        process.popen.send_signal(signal.SIGINT)
        content = b""
        while data := stream.recv(65536):
            content += data
        assert b"the server is stopping" in content or b"[DONE]" in content
        assert process.popen.wait(60) == 0
        said = "".join(process.said) + process.popen.stderr.read()
    assert len(said.splitlines()) == 2  # no log of requests, and no text in it
    assert "secret" not in said


def test_sigterm_ends_it_too(run):
    with serving(run) as process:
        stream = process.begin_stream(prompt="a", max_tokens=4096, temperature=5.0)
        while b"data: " not in stream.recv(65536):
            pass
        process.popen.terminate()
        assert process.popen.wait(60) in (0, -signal.SIGTERM)
        assert process.popen.stderr.read() == ""


def test_other_machines_may_ask_with_the_key(run, tmp_path):
    (tmp_path / "key").write_text(KEY)
    with serving(run, "--host", "0.0.0.0", f"--serve.key_file={tmp_path / 'key'}") as process:
        assert process.ask("GET", "/v1/models")[0] == 401
        assert process.ask("GET", "/v1/models", Authorization=f"Bearer {KEY}")[0] == 200
        assert process.ask("GET", "/health", Host="evil.test")[0] == 403


def test_without_a_key_they_may_not(run, capsys):
    assert serve.main([str(run), "--host", "0.0.0.0"]) == 2
    assert "[serve].key_file: expected a file with a key" in capsys.readouterr().err


def test_a_port_in_use_and_a_missing_run_are_said(run, tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert serve.main([str(run), "--port", str(port)]) == 74
        assert f"port {port} of 127.0.0.1: " in capsys.readouterr().err
    assert serve.main(["--checkpoint", str(tmp_path / "none"), "--port", "0"]) == 4
    assert serve.main([str(run), "--port", "70000"]) == 2


def test_a_missing_package_is_said(run, monkeypatch, capsys):
    monkeypatch.setattr(serve, "PACKAGES", ("starlette", "no_such_package"))
    assert serve.main([str(run)]) == 1
    expected = 'needs no_such_package, which is not installed: pip install "transformerlm[serve]"'
    assert expected in capsys.readouterr().err


def test_an_end_token_that_the_tokenizer_lacks_is_said_at_the_start(tmp_path, capsys):
    from tests.small_models import bytes_only

    run = save_run(language_model(bytes_only(), vocab_size=256), tmp_path / "run")
    assert in_a_thread(serve.main, [str(run), "--port", "0"]) == 2
    said = capsys.readouterr().err
    assert "eos_token" in said
    assert "http://" not in said


def test_while_requests_are_served_the_objects_from_before_are_not_collected(run, monkeypatch):
    before, frozen = gc.get_freeze_count(), []

    async def note(*_):
        frozen.append(gc.get_freeze_count())

    monkeypatch.setattr(server, "run", note)
    section = ServeSection(checkpoint=str(run), port=0)
    in_a_thread(server.serve, ServeConfig(serve=section, runtime=RuntimeConfig(dtype="float32")), str)
    assert frozen[0] > 100_000
    assert gc.get_freeze_count() == before


def test_the_address_is_said_once_requests_are_answered(run, monkeypatch):
    said, startup = [], uvicorn.Server.startup

    async def noted(*arguments):
        await startup(*arguments)
        said.append("answers")

    async def end_at_once(*_):
        pass

    monkeypatch.setattr(uvicorn.Server, "startup", noted)
    monkeypatch.setattr(uvicorn.Server, "main_loop", end_at_once)
    section = ServeSection(checkpoint=str(run), port=0)
    config = ServeConfig(serve=section, runtime=RuntimeConfig(dtype="float32"))
    in_a_thread(server.serve, config, said.append)
    assert [line.partition(":")[0] for line in said] == ["fables", "answers", "http"]
