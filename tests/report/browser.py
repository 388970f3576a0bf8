"""A real browser, Debian's Chromium through playwright, and what its pages ask for and complain about."""

import contextlib
import os
import shutil
from pathlib import Path

import pytest


@contextlib.contextmanager
def chromium():
    """Yield a running Chromium; without one, the tests are skipped."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("needs Chromium: apt-get install chromium, or CHROMIUM=/path/to/it")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visit:
    """A page in a window of its own."""

    def __init__(self, browser, url: str | Path, width: int = 1280, scheme: str = "light") -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page = self.context.new_page()
        self.problems: list[str] = []
        """Messages of the console, errors and dialogs."""
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.problems.append(message.text))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.problems.append(dialog.message), dialog.dismiss()))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.url = url.resolve().as_uri() if isinstance(url, Path) else url
        self.page.goto(self.url)

    def __enter__(self):
        return self

    def __exit__(self, *exception: object) -> None:
        self.context.close()

    def choose(self, value: str) -> None:
        """Choose what the charts show, by the value of its radio button."""
        self.page.locator(f"input[value={value}] + span").click()

    def hover(self, chart: str, fraction: float) -> dict[tuple[int, str], tuple[int, float, str]]:
        """Point at a part of a chart's width; return (run, series) -> step, value and text of the tip."""
        plot = self.page.locator(f"[data-chart={chart}] .plot")
        plot.scroll_into_view_if_needed()
        self.page.mouse.move(0, 0)
        # What the scrolling moves below the pointer is told with the next frames: it must not come later.
        self.page.evaluate(
            "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
        )
        box = plot.bounding_box()
        left, right = box["x"] + 46, box["x"] + box["width"] - 10  # as Chart.draw has them
        self.page.mouse.move(left + fraction * (right - left), box["y"] + box["height"] / 2)
        return self.tip(chart)

    def tip(self, chart: str) -> dict[tuple[int, str], tuple[int, float, str]]:
        """Return what the tip of a chart says; see `hover`."""
        values = self.page.eval_on_selector_all(
            f"[data-chart={chart}] .tip .value",
            "cells => cells.map(c => ({...c.dataset, text: c.textContent}))",
        )
        return {
            (int(v["run"]), v["series"]): (
                int(v["step"]),
                float(v["value"].replace("Infinity", "inf")),
                v["text"],
            )
            for v in values
        }

    def path(self, chart: str, selector: str = ".line path") -> str:
        """Return the outlines of a chart's lines."""
        found = self.page.locator(f"[data-chart={chart}] .plot {selector}")
        return " ".join(found.nth(index).get_attribute("d") for index in range(found.count()))
