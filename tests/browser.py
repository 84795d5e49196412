"""Pages in a headless Chromium of the system's, driven by Playwright."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@contextmanager
def chromium() -> Iterator[Any]:
    """Yield a browser; tests are skipped, with the reason, where there is none."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed")
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    with playwright.sync_playwright() as driver:
        # Containers run tests as root, where Chromium's sandbox cannot start; the pages are our own.
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox", "--enable-unsafe-swiftshader"])
        try:
            yield browser
        finally:
            browser.close()


class Visit:
    """A page that was opened, and everything that it complained of or asked for.

    Parameters
    ----------
    browser
        What `chromium` yields.
    file
        The page.
    width, height
        Of the window, in CSS pixels.
    scheme
        `light` or `dark`, as the system prefers it.
    before
        Script that runs before any of the page's.
    """

    def __init__(
        self, browser: Any, file: Path, *, width: int = 800, height: int = 600, scheme: str = "light", before: str = ""
    ) -> None:
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        self.page = self.context.new_page()
        self.page.set_default_timeout(10_000)
        self.page.on("console", lambda message: self._said(message.type, message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url[:100]))
        if before:
            self.page.add_init_script(before)
        self.page.goto(file.as_uri())
        self.page.wait_for_selector("html[data-ready=yes]")

    def _said(self, kind: str, text: str) -> None:
        if kind in ("error", "assert"):
            self.complaints.append(text)

    def asked_for(self) -> list[str]:
        """Return what the page loaded, apart from itself and pictures that are part of it."""
        return [url for url in self.requests[1:] if not url.startswith(("data:", "blob:"))]

    def shown(self) -> str:
        """Return what the molecule is shown as, e.g. `pc1 3.20` or `state 2`."""
        return str(self.page.get_attribute("#molecule", "data-shown"))

    def step(self) -> float:
        """Return the step of the motion that is shown."""
        return float(self.shown().split()[1])

    def picture(self, selector: str = "#molecule") -> np.ndarray:
        """Return the pixels of a canvas, shape (rows, columns, 4)."""
        script = """(canvas) => {
            const copy = document.createElement("canvas");
            copy.width = 80; copy.height = 60;
            const context = copy.getContext("2d");
            context.drawImage(canvas, 0, 0, 80, 60);
            return Array.from(context.getImageData(0, 0, 80, 60).data);
        }"""
        settled = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done())))"
        self.page.evaluate(settled)
        return np.array(self.page.eval_on_selector(selector, script), dtype=np.uint8).reshape(60, 80, 4)

    def close(self) -> None:
        """Close the window."""
        self.context.close()
