import http.client
import threading

import pytest

from tests.report.browser import Visit
from tests.report.written_runs import records, training_record, write_run
from transformerlm.errors import OutputError
from transformerlm.logging import MetricsFile, names
from transformerlm.report.serve import LiveRun, make_server


@pytest.fixture
def run_dir(tmp_path):
    return write_run(tmp_path / "run", 40)


@pytest.fixture
def port(run_dir):
    with make_server(run_dir, 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def ask(port, path, method="GET", host=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", f"127.0.0.1:{port}" if host is None else host)
    connection.endheaders()
    answer = connection.getresponse()
    return answer.status, answer.read(), dict(answer.getheaders())


def test_nothing_but_the_page_and_new_records_is_served(port, run_dir):
    status, content, headers = ask(port, "/")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert b"<h1>run</h1>" in content
    assert not [name for name in headers if name.startswith("Access-Control")]
    for path in ("/metrics.jsonl", "/../run/config.toml", "/%2e%2e/", "/records/", "/favicon.ico"):
        assert ask(port, path)[0] == 404
    for query in ("", "?offset=1", "?offset=x&generation=0", "?offset=&generation=0"):
        assert ask(port, f"/records{query}")[0] == 400


@pytest.mark.parametrize(
    "host", ["evil.test", "evil.test:{port}", "127.0.0.1", "127.0.0.1:1", "", "127.0.0.1.evil.test:{port}"]
)
def test_another_host_is_refused(host, port):
    assert ask(port, "/", host=host.format(port=port))[0] == 403
    assert ask(port, "/records?offset=0&generation=0", host=host.format(port=port))[0] == 403


def test_this_machine_has_two_names(port):
    assert ask(port, "/", host=f"localhost:{port}")[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS", "CONNECT"])
def test_only_get(method, port):
    assert ask(port, "/", method)[0] == 501


def test_only_what_is_new_is_sent(run_dir):
    live = LiveRun(run_dir)
    page = live.page()
    offset = (run_dir / "metrics.jsonl").stat().st_size
    assert f'"live":{{"offset":{offset},"generation":0}}' in page
    assert live.news(offset, 0) == {"offset": offset, "series": {}}
    with MetricsFile(run_dir / "metrics.jsonl") as file:
        file.log(training_record(410), 410)
        news = live.news(offset, 0)
        assert news["series"]["loss"]["step"] == [410]
        assert news["series"]["loss"]["value"] == [records(run_dir, names.LOSS)[410]]
        assert news["series"]["lr"]["tokens"] == [410 * 512]
        assert news["offset"] == (run_dir / "metrics.jsonl").stat().st_size
        file.truncate_after(200)
        assert live.news(news["offset"], 0) == {"reload": True}
        assert '"generation":1' in live.page()


def test_a_port_in_use_is_an_error(port, run_dir):
    with pytest.raises(OutputError, match=f"port {port} of 127.0.0.1: .*--report.port="):
        make_server(run_dir, port)


def test_the_page_follows_the_run(port, run_dir, browser):
    with Visit(browser, f"http://127.0.0.1:{port}/") as visit, MetricsFile(run_dir / "metrics.jsonl") as file:
        assert visit.hover("quality", 1.0)[0, "bits"][0] == 400
        big = visit.page.locator(".big span").inner_text()
        with visit.page.expect_response(
            lambda answer: answer.url.endswith("/") and "records" not in answer.url
        ):
            file.log(training_record(500), 500)
            file.log({names.VAL_LOSS: 1.0, names.VAL_BITS_PER_BYTE: 0.5}, 500)
        found = visit.hover("quality", 1.0)
        assert found[0, "bits"][:2] == (500, records(run_dir, names.BITS_PER_BYTE)[500])
        visit.page.get_by_text("0.500", exact=True).first.wait_for()
        assert big != visit.page.locator(".big span").inner_text() == "0.500"
        assert visit.problems == []
        assert all(url.startswith(visit.url) for url in visit.requests)
