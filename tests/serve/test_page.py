"""The page in a real browser: typing, writing, stopping, undoing, reloading, errors."""

import dataclasses
import re
import time

import pytest
import torch

from tests.report.browser import Visit
from tests.serve.servers import KEY, one_byte_at_a_time, served
from tests.small_models import language_model
from transformerlm.language_model import LanguageModel

pytestmark = pytest.mark.slow


@pytest.fixture
def slow_lm() -> LanguageModel:
    lm = language_model()
    lm.model.final_norm.register_forward_hook(lambda *_: time.sleep(0.01))
    return lm


class Notebook(Visit):
    """A page of the server."""

    @property
    def text(self):
        return self.page.input_value("#text")

    @property
    def status(self):
        return self.page.inner_text("#status")

    def set(self, **settings):
        for name, value in settings.items():
            self.page.fill(f"[name={name}]", str(value))

    def type(self, text):
        self.page.locator("#text").press_sequentially(text)

    def press(self, name):
        self.page.click(f"#{name}")

    def until(self, is_so):
        """Wait for something; the page's policy forbids the waiting in the page that playwright offers."""
        deadline = time.monotonic() + 60
        while not is_so():
            assert time.monotonic() < deadline, "it did not come"
            self.page.wait_for_timeout(10)

    def wait(self):
        """Wait until nothing is being written."""
        self.until(lambda: self.page.inner_text("#write") == "Write")

    def wait_for_text(self, length):
        self.until(lambda: len(self.text) >= length)

    def wait_for_name(self):
        self.until(lambda: self.page.inner_text("h1") == "small")

    def spans(self):
        return self.page.eval_on_selector_all("#mirror span", "all => all.map(one => one.textContent)")


def alone(lm, prompt, **settings):
    how = {"temperature": 1.2, "top_p": 0.9, "max_new_tokens": 25, "seed": 3}
    return lm.generate(prompt, **{**how, **settings})


SETTINGS = {"temperature": 1.2, "top_p": 0.9, "max_tokens": 25, "seed": 3}


def test_a_text_goes_on_in_place_and_every_try_can_be_had_again(browser, server, lm):
    with Notebook(browser, server.url) as book:
        book.set(**SETTINGS)
        book.type("The fox né 😀")
        book.page.keyboard.press("Control+Enter")
        book.wait()
        first = "The fox né 😀" + alone(lm, "The fox né 😀")
        assert book.text == first
        assert "".join(book.spans()) == first[len("The fox né 😀") :]
        assert "seed 3" in book.status
        book.press("again")
        book.wait()
        second = "The fox né 😀" + alone(lm, "The fox né 😀", seed=4)
        assert book.text == second != first
        book.press("undo")
        assert book.text == first
        book.press("redo")
        assert book.text == second
        book.press("undo")
        book.page.focus("#text")
        book.page.keyboard.press("Control+z")
        assert book.text == "The fox né 😀"
        book.page.keyboard.press("Control+Shift+Z")
        assert book.text == first
        assert book.problems == []
        assert {url.split("/")[2] for url in book.requests} == {f"127.0.0.1:{server.port}"}


def test_a_text_goes_on_at_the_cursor_and_what_is_behind_it_stays(browser, server, lm):
    with Notebook(browser, server.url) as book:
        book.set(**SETTINGS)
        book.type("The fox. The end.")
        for _ in " The end.":
            book.page.keyboard.press("ArrowLeft")
        book.page.keyboard.press("Control+Enter")
        book.wait()
        written = "The fox." + alone(lm, "The fox.")
        assert book.text == written + " The end."
        book.page.keyboard.type("!")
        assert book.text == written + "! The end."


def test_stop_stops_the_model_and_keeps_what_is_written(browser, slow_lm):
    with served(slow_lm) as server, Notebook(browser, server.url) as book:
        book.set(max_tokens=4000, temperature=5)
        book.type("The fox")
        book.press("write")
        book.wait_for_text(20)
        book.press("write")  # it says Stop now
        book.wait()
        kept = book.text
        assert kept.startswith("The fox")
        assert "stopped" in book.status
        deadline = time.monotonic() + 30
        while server.metric("texts_writing"):
            assert time.monotonic() < deadline
        assert book.text == kept
        book.press("undo")
        assert book.text == "The fox"


def test_a_reload_in_mid_text_loses_nothing(browser, slow_lm):
    with served(slow_lm) as server, Notebook(browser, server.url) as book:
        book.set(max_tokens=4000, temperature=5, seed=17, stop="never")
        book.type("The fox")
        book.press("write")
        book.wait_for_text(30)
        before = book.text
        book.page.reload()
        assert book.text.startswith(before)
        assert book.page.input_value("[name=max_tokens]") == "4000"
        assert book.page.input_value("[name=stop]") == "never"
        assert len(book.spans()) > 3
        assert book.problems == []


def test_an_error_in_mid_text_is_said_and_loses_nothing(browser, slow_lm):
    with served(slow_lm) as server, Notebook(browser, server.url) as book:
        book.set(max_tokens=4000, temperature=5)
        book.type("The fox")
        book.press("write")
        book.wait_for_text(20)
        with torch.no_grad():
            slow_lm.model.final_norm.weight.fill_(float("nan"))
        book.wait()
        assert "not numbers" in book.status
        assert "the text so far is kept" in book.status
        assert len(book.text) >= 20
        text = book.text
        server.engine.stop()
        book.press("write")
        book.wait()
        assert "stopping" in book.status
        assert book.text == text


def test_pasted_text_is_scored(browser, server, lm):
    text = "né 😀 The fox, they've said. "
    ids = torch.tensor([lm.tokenizer.encode(text)])
    nats = torch.nn.functional.cross_entropy(lm.model(ids)[0, :-1], ids[0, 1:])
    with Notebook(browser, server.url) as book:
        book.page.focus("#text")
        book.page.keyboard.insert_text(text)
        book.press("score")
        book.wait()
        found = re.match(r"perplexity (\S+) over (\d+) tokens", book.status)
        assert float(found[1]) == pytest.approx(nats.exp().item(), rel=1e-3)
        assert int(found[2]) == ids.shape[1] - 1
        marked = "".join(book.spans())
        assert text.endswith(marked)
        assert len(marked) > len(text) - 5
        book.type("x")  # at the end: what comes before it keeps its probabilities
        assert "".join(book.spans()) == marked
        book.page.keyboard.press("Control+Home")
        book.type("y")
        assert book.spans() == []
        assert book.problems == []


def test_the_alternatives_of_a_token_are_shown_where_it_is_pointed_at(browser, server):
    with Notebook(browser, server.url) as book:
        book.set(**SETTINGS)
        book.type("The fox")
        book.press("write")
        book.wait()
        box = book.page.locator("#mirror span").nth(4).bounding_box()
        book.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        rows = book.page.locator("#tip tr")
        assert rows.count() in (5, 6)
        assert book.page.locator("#tip .chosen").count() == 1
        shares = [float(value) for value in re.findall(r"([\d.]+) %", book.page.inner_text("#tip"))]
        assert shares == sorted(shares, reverse=True)
        book.page.mouse.move(5, 5)
        assert not book.page.locator("#tip").is_visible()


def test_events_may_be_cut_anywhere_on_the_way(browser, server, lm):
    with one_byte_at_a_time(server.port) as port, Notebook(browser, f"http://127.0.0.1:{port}") as book:
        book.set(**SETTINGS)
        book.type("né 😀")
        book.press("write")
        book.wait()
        assert book.text == "né 😀" + alone(lm, "né 😀")


def test_a_server_with_a_key_asks_for_it(browser, lm):
    with served(lm, key=KEY) as server, Notebook(browser, server.url) as book:
        book.page.wait_for_selector("[name=key]")
        assert "Authorization" in book.status
        book.set(key=KEY)
        book.page.keyboard.press("Tab")
        book.wait_for_name()
        book.set(**SETTINGS)
        book.type("The fox")
        book.press("write")
        book.wait()
        assert book.text == "The fox" + alone(lm, "The fox")


def test_the_runs_own_settings_are_the_defaults(browser):
    lm = language_model()
    own = dataclasses.replace(lm.generation, temperature=0.3, max_new_tokens=77)
    with served(language_model(generation=own)) as server, Notebook(browser, server.url) as book:
        book.wait_for_name()
        found = [book.page.input_value(f"[name={name}]") for name in ("temperature", "max_tokens", "top_p")]
        assert found == ["0.3", "77", "0.95"]
