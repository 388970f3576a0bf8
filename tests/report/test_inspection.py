"""The page of an inspection: in a real browser, and with text that tries to be a part of it."""

import random

import pytest

from tests.data.copies_oracle import random_text
from tests.report.browser import Visit
from transformerlm.config import DataConfig, InspectConfig, TokenizerConfig
from transformerlm.data.inspection.run import inspect
from transformerlm.report.inspection import write_inspection

HOSTILE = "</pre><script>document.title = 'obeyed'</script><img src=x onerror=alert(1)>{{ 7 * 7 }}\x1b[31m"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inspected")
    (folder / "texts").mkdir()
    rng = random.Random(0)
    leak = f"{HOSTILE} {random_text(rng, 60)}"
    (folder / "texts" / "<b>train & copy.txt").write_text(f"before {leak} after")
    (folder / "texts" / "again.txt").write_text(f"before {leak} after")
    (folder / "texts" / "near.txt").write_text(f"before {leak} after all")
    (folder / "texts" / "invalid.txt").write_bytes(b"a long line \xff" + b"x" * 500)
    (folder / "val.txt").write_text(f"other {random_text(rng, 80)} {leak}")
    config = InspectConfig(
        data=DataConfig(corpus=str(folder / "texts"), validation_corpus=str(folder / "val.txt")),
        tokenizer=TokenizerConfig(vocab_size=300, tokenizer_dir=str(folder / "tok")),
    )
    path = folder / "page.html"
    size = write_inspection(inspect(config), path)
    assert size == path.stat().st_size
    return path


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_its_window_and_asks_for_nothing(scheme, page, browser):
    with Visit(browser, page, 390, scheme) as visit:
        for width in (390, 820, 1280):
            visit.page.set_viewport_size({"width": width, "height": 900})
            visit.page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
            assert visit.page.evaluate("document.documentElement.scrollWidth") == width
        assert visit.requests == [visit.url]
        assert visit.problems == []


def test_text_of_the_corpus_stays_text(page, browser):
    with Visit(browser, page) as visit:
        assert visit.page.title() != "obeyed"
        assert visit.page.locator("script, img").count() == 0
        assert "</pre><script>" in visit.page.locator(".leak pre").first.text_content()
        text = visit.page.locator("main").text_content()
        assert "{{ 7 * 7 }}" in text
        assert "<b>train & copy.txt" in text


def test_the_page_has_every_part(page, browser):
    with Visit(browser, page) as visit:
        headings = visit.page.locator("h2").all_text_contents()
        assert headings == ["Notes", "Longest leaks", "Copies", "Text", "Tokens"]
        assert visit.page.locator(".apart").count() == 2
        assert "0xff" in visit.page.locator("main").text_content()
