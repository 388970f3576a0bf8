"""The page in a real browser: widths, themes, reading values, zoom, long, damaged and many runs."""

import json
import math
import shutil

import pytest

from tests.report.browser import Visit
from tests.report.written_runs import FACTS, records, write_run, write_samples
from transformerlm.logging import RunHistory, names
from transformerlm.report import write_report

SERIES = {
    "bits": names.BITS_PER_BYTE,
    "loss": names.LOSS,
    "val_bits": names.VAL_BITS_PER_BYTE,
    "val_loss": names.VAL_LOSS,
}
SERIES |= {"lr": names.LR, "grad_norm": names.GRAD_L2_NORM, "rate": names.TOKENS_PER_SECOND, "mfu": names.MFU}


def written(run_dirs, folder):
    path = folder / "page.html"
    write_report(run_dirs, path)
    return path


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    spike = {names.LOSS: 9.0, names.GRAD_L2_NORM: 30.0, names.SPIKES: 1}
    found = write_run(folder / "one", 1000, every=10, changes={5010: spike})
    history = RunHistory(found)
    history.newest_step = 6000
    history.rewind(4000)
    history.add("start", 4000, **FACTS)
    (found / "expectation.json").write_text('{"bits_per_byte": 1.5, "low": 1.3, "high": 1.7}')
    write_samples(found, [(step, "Once", f" upon a time, {step}") for step in (2500, 5000, 10_000)])
    return found


@pytest.fixture(scope="module")
def page(run_dir, tmp_path_factory):
    return written([run_dir], tmp_path_factory.mktemp("page"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_fits_its_window_and_asks_for_nothing(scheme, page, browser):
    with Visit(browser, page, 390, scheme) as visit:
        for width in (390, 820, 1280):
            visit.page.set_viewport_size({"width": width, "height": 900})
            visit.page.evaluate(DRAWN)
            assert visit.page.evaluate("document.documentElement.scrollWidth") == width
            for chart in ("quality", "lr", "grad_norm", "rate", "mfu"):
                assert "NaN" not in visit.path(chart)
                assert len(visit.path(chart)) > 500
        paper = visit.page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
        contrasts = visit.page.evaluate(CONTRASTS)
        assert min(contrasts) >= 3, contrasts
        assert visit.problems == []
        assert visit.requests == [visit.url]


DRAWN = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
"""Waits for what follows a change of the window's size."""
CONTRASTS = """() => {
  const probe = document.body.appendChild(document.createElement("i"));
  const light = (name) => {
    probe.style.color = `var(--${name})`;
    const [r, g, b] = getComputedStyle(probe).color.match(/\\d+/g).map((v) => v / 255)
      .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
  };
  const paper = light("paper");
  return ["ink", "muted", "s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7", "bad"]
    .map((name) => Math.max(light(name), paper) / Math.min(light(name), paper));
}"""
"""Contrast of the colours of lines and text with the paper; WCAG asks for 3 in graphics."""


@pytest.mark.parametrize("axis", ["step", "tokens", "seconds"])
def test_values_on_hover_are_those_of_the_file(axis, page, run_dir, browser):
    values = {key: records(run_dir, name) for key, name in SERIES.items()}
    with Visit(browser, page) as visit:
        visit.choose(axis)
        for chart in ("quality", "lr", "grad_norm", "rate", "mfu"):
            for fraction in (0.0, 0.31, 1.0):
                found = visit.hover(chart, fraction)
                assert len(found) == (2 if chart == "quality" else 1)
                for (_, key), (step, value, text) in found.items():
                    assert value == values[key][step]
                    shown = float(text.partition(" at ")[0].replace(",", ""))
                    assert shown == pytest.approx(value, rel=1e-5)
        assert visit.problems == []


def test_bits_per_byte_of_a_run_that_did_not_log_them_follow_from_the_loss(run_dir, tmp_path, browser):
    shutil.copytree(run_dir, tmp_path / "old")
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    for record in lines:
        record.pop(names.BITS_PER_BYTE, None)
    (tmp_path / "old/metrics.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in lines))
    with Visit(browser, written([tmp_path / "old"], tmp_path)) as visit:
        step, value, _ = visit.hover("quality", 0.5)[0, "loss"]
        assert value == pytest.approx(records(run_dir, names.BITS_PER_BYTE)[step], rel=1e-12)


def test_the_spike_is_drawn_marked_and_can_be_read(page, browser):
    with Visit(browser, page) as visit:
        visit.choose("nats")
        found = visit.hover("quality", 5010 / 10_000)
        assert found[0, "loss"][:2] == (5010, 9.0)
        tip = visit.page.locator("[data-chart=quality] .tip").inner_text()
        assert "spike: 1 spike between steps 5,001 and 5,010" in tip
        for kind in ("spike", "roll-back", "restart"):
            assert visit.page.locator(f"[data-chart=grad_norm] .mark.{kind}").count() == 1
        assert "went back to step 4,000 from step 6,000" in visit.page.locator("main").inner_text()


def test_dragging_zooms_and_the_button_goes_back(page, browser):
    with Visit(browser, page) as visit:
        plot = visit.page.locator("[data-chart=quality] .plot")
        whole, box = visit.path("lr"), plot.bounding_box()
        visit.page.mouse.move(box["x"] + 300, box["y"] + 100)
        visit.page.mouse.down()
        visit.page.mouse.move(box["x"] + 500, box["y"] + 120)
        visit.page.mouse.up()
        assert visit.path("lr") != whole
        step, *_ = visit.hover("quality", 0.0)[0, "bits"]
        assert 2000 < step < 4000
        visit.page.get_by_role("button", name="whole run").click()
        assert visit.path("lr") == whole


def test_arrow_keys_read_the_values_and_a_table_has_them(page, run_dir, browser):
    with Visit(browser, page) as visit:
        plot = visit.page.locator("[data-chart=lr] .plot")
        plot.focus()
        for _ in range(3):
            plot.press("ArrowRight")
        assert visit.tip("lr")[0, "lr"][:2] == (30, records(run_dir, names.LR)[30])
        plot.press("End")
        assert visit.tip("lr")[0, "lr"][0] == 10_000
        assert "Learning rate. values: first 0.000990099" in plot.get_attribute("aria-label")
        visit.page.locator("[data-chart=lr] summary").click()
        rows = visit.page.locator("[data-chart=lr] tbody tr").all_inner_texts()
        step, tokens, _, value = rows[-1].split("\t")
        assert (step, tokens) == ("10,000", "5.12 M")
        assert float(value) == pytest.approx(records(run_dir, names.LR)[10_000], rel=1e-5)


def test_print_is_light_whole_and_without_controls(page, browser):
    with Visit(browser, page, scheme="dark") as visit:
        visit.page.emulate_media(media="print")
        paper = visit.page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        assert paper == "rgb(255, 255, 255)"
        assert not visit.page.locator(".controls").is_visible()
        assert visit.page.pdf().startswith(b"%PDF")


def test_text_of_samples_does_nothing(tmp_path, browser):
    hostile = '</script><script>alert(1)</script><img src="http://evil.test/x" onerror="alert(2)">\u2028'
    run_dir = write_run(tmp_path / "<img src=x onerror=alert(3)>")
    write_samples(run_dir, [(10, hostile, hostile)])
    with Visit(browser, written([run_dir, run_dir], tmp_path)) as visit:
        assert (visit.problems, visit.requests) == ([], [visit.url])
        visit.page.locator("details.run summary").first.click()
        assert visit.page.locator(".sample").first.text_content() == hostile * 2
        visit.hover("quality", 0.5)
        assert "<img src=x" in visit.page.locator("[data-chart=quality] .tip").inner_text()
        assert visit.problems == []


def test_gaps_and_nan_break_the_line_and_nan_is_read(tmp_path, browser):
    changes = dict.fromkeys(range(500, 900, 10)) | {1000: {names.LOSS: float("nan"), names.LR: float("inf")}}
    run_dir = write_run(tmp_path / "run", changes=changes)
    with Visit(browser, written([run_dir], tmp_path)) as visit:
        assert visit.path("quality", ".line.c0 .raw").count("M") == 3
        assert visit.path("grad_norm", ".line .raw").count("M") == 2
        step, value, text = visit.hover("quality", 1000 / 2000)[0, "bits"]
        assert (step, math.isnan(value), text) == (1000, True, "NaN")
        assert visit.hover("lr", 1000 / 2000)[0, "lr"][2] == "Infinity"
        assert visit.problems == []


@pytest.mark.parametrize("num_records", [0, 1])
def test_a_run_of_hardly_any_records(num_records, tmp_path, browser):
    with Visit(browser, written([write_run(tmp_path / "run", num_records)], tmp_path)) as visit:
        found = visit.hover("quality", 1.0)
        assert len(found) == 2 * num_records
        assert visit.problems == []


def test_fifty_runs_overlay_and_can_be_switched_off(tmp_path, browser):
    runs = [write_run(tmp_path / f"run-{number}", 150 + number) for number in range(50)]
    path = written(runs, tmp_path)
    assert path.stat().st_size < 4_000_000
    with Visit(browser, path) as visit:
        assert visit.page.locator("[data-chart=lr] .plot g.line").count() == 50
        assert len(visit.hover("lr", 0.5)) == 8
        assert "and 42 more" in visit.page.locator("[data-chart=lr] .tip").inner_text()
        visit.page.locator("#all").uncheck()
        visit.page.locator("tr[data-run='7'] input").check()
        assert visit.page.locator("[data-chart=lr] .plot g.line").count() == 1
        ((run, _), (step, value, _)) = next(iter(visit.hover("lr", 0.5).items()))
        assert (run, value) == (7, records(runs[7], names.LR)[step])
        assert visit.problems == []


def test_a_mixture_has_charts_of_its_corpora(tmp_path, browser):
    shares = {"books": 0.75, "notes": 0.25}
    of = names.of_corpus
    changes = {
        step: {of(names.TOKENS, "books"): 384 * step, of(names.TOKENS, "notes"): 128 * step}
        | ({of(names.VAL_BITS_PER_BYTE, name): 2 + share for name, share in shares.items()})
        for step in range(10, 2001, 10)
    }
    mixture = [{"name": name, "share": share, **FACTS["data"]["train"]} for name, share in shares.items()]
    run = write_run(tmp_path / "mixed", changes=changes, facts=FACTS | {"mixture": mixture})
    other = write_run(tmp_path / "other")
    with Visit(browser, written([run], tmp_path)) as visit:
        drawn = visit.hover("corpus_drawn", 0.5)
        assert {series: value for (_, series), (_, value, _) in drawn.items()} == {
            "corpus_drawn.books": 75,
            "corpus_drawn.notes": 25,
        }
        bits = visit.hover("corpus_bits", 0.5)
        assert {series: value for (_, series), (_, value, _) in bits.items()} == {
            "corpus_bits.books": 2.75,
            "corpus_bits.notes": 2.25,
        }
        legend = visit.page.locator("[data-chart=corpus_drawn] .legend").inner_text()
        assert legend.split("\n") == ["books: 75 %", "notes: 25 %"]
        assert not visit.problems
    with Visit(browser, written([run, other], tmp_path)) as visit:
        assert not visit.page.locator("[data-chart^=corpus]").count()
        assert not visit.problems
