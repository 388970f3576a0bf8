"""Who may ask, and what stays where it is."""

import json
import socket

import pytest

from tests.serve.servers import KEY, served
from transformerlm.config import ServeSection
from transformerlm.errors import ConfigError
from transformerlm.schema import SchemaError
from transformerlm.serve.guard import read_key

PATHS = ["/", "/health", "/metrics", "/v1/models"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "host", ["evil.test", "evil.test:8322", "127.0.0.1.evil.test", "localhost.evil.test", "", "[", "a b"]
)
def test_other_names_are_refused(server, path, host):
    status, _, content = server.ask("GET", path, Host=host)
    assert (status, json.loads(content)["error"]["code"]) == (403, "host_not_allowed")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:8322", "192.168.1.2:80"])
def test_the_servers_own_names_and_addresses_are_not(server, host):
    assert server.ask("GET", "/health", Host=host)[0] == 200


def test_a_name_may_be_allowed(lm):
    with served(lm, allowed_hosts=("Model.home",)) as server:
        assert server.ask("GET", "/health", Host="model.home:8322")[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.test"},
        {"Origin": "null"},
        {"Origin": "http://localhost:1"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ],
    ids=str,
)
def test_pages_of_other_sites_are_refused(server, headers):
    for method, path in (("GET", "/health"), ("POST", "/v1/completions"), ("OPTIONS", "/v1/completions")):
        status, found, content = server.ask(method, path, **headers)
        assert (status, json.loads(content)["error"]["code"]) == (403, "origin_not_allowed")
        assert not [name for name in found if name.lower().startswith("access-control")]


def test_the_servers_own_page_is_not(server):
    own = f"127.0.0.1:{server.port}"
    headers = {"Origin": f"http://{own}", "Sec_Fetch_Site": "same-origin"}
    assert server.ask("POST", "/v1/completions", {"prompt": "a"}, **headers)[0] == 200


@pytest.mark.parametrize("kind", ["text/plain", "", "application/x-www-form-urlencoded"])
def test_a_body_that_says_not_to_be_json_is_refused(server, kind):
    """Such a one a page of another site may send without asking."""
    assert server.ask("POST", "/v1/completions", {"prompt": "a"}, Content_Type=kind)[0] == 415


def test_bodies_are_bounded(lm):
    with served(lm, max_body_bytes=1000) as server:
        assert server.complete(prompt="a" * 900, max_tokens=1)
        for size in (1000, 30_000):  # all of the larger one is sent before its answer is read
            status, error = server.refusal(prompt="a" * size)
            assert (status, error["code"]) == (413, "body_too_large")
        with socket.create_connection(("127.0.0.1", server.port)) as endless:
            head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            endless.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
            endless.sendall(b"400\r\n" + b"a" * 1024 + b"\r\n")  # and no end
            assert b" 413 " in endless.recv(4096)


def test_with_a_key_only_the_page_and_the_sign_of_life_are_open(lm):
    with served(lm, key=KEY) as server:
        for path, status in (
            ("/", 200),
            ("/health", 200),
            ("/metrics", 401),
            ("/v1/models", 401),
            ("/x", 401),
        ):
            assert server.ask("GET", path)[0] == status
        for given in (f"Bearer {KEY}", f"bearer  {KEY} "):
            assert server.ask("GET", "/v1/models", Authorization=given)[0] == 200
        for given in ("", "Bearer", KEY, f"Basic {KEY}", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", "Bearer é"):
            status, headers, content = server.ask("POST", "/v1/completions", {}, Authorization=given)
            assert (status, headers["www-authenticate"]) == (401, "Bearer")
            assert json.loads(content)["error"]["code"] == "invalid_api_key"


def test_other_machines_need_a_key(tmp_path):
    for host in ("0.0.0.0", "::", "192.168.1.2", "model.home"):
        with pytest.raises(SchemaError, match="key_file: expected a file with a key"):
            ServeSection(host=host)
        ServeSection(host=host, key_file=str(tmp_path))
    for host in ("127.0.0.1", "127.0.0.2", "::1", "localhost"):
        ServeSection(host=host)


@pytest.mark.parametrize("content", [b"", b"short", b"two words that are long enough", b"\xff" * 20])
def test_a_key_is_one_word_that_is_hard_to_guess(tmp_path, content):
    path = tmp_path / "key"
    path.write_bytes(content)
    with pytest.raises(ConfigError):
        read_key(str(path))
    with pytest.raises(ConfigError):
        read_key(str(tmp_path / "none"))
    path.write_text(f"{KEY}\n")
    assert read_key(str(path)) == KEY


def test_nothing_of_the_folder_is_served(server):
    for path in (
        "/pyproject.toml",
        "/..%2fpyproject.toml",
        "//etc/passwd",
        "/v1/models/..%2f..%2fetc%2fpasswd",
    ):
        status, _, content = server.ask("GET", path)
        assert status == 404
        assert json.loads(content)["error"]


def test_the_page_may_talk_to_this_server_alone(server):
    _, headers, content = server.ask("GET", "/")
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert b"http://" not in content.replace(b"http://www.w3.org/2000/svg", b"")


def test_of_two_names_none_counts(server):
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: evil.test\r\n\r\n")
        assert b" 400 " in connection.recv(100).partition(b"\r\n")[0]
