# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A visitor of the page at /, in the distribution's Chromium, with a recording for a microphone."""

from __future__ import annotations

import re
import shutil
import typing as t
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

PATIENCE_SECONDS = 60
# In the page from its first moment: what moved without anybody's doing, and what its policy had to refuse.
_WATCH = """
window.shifts = [];
window.refused = [];
new PerformanceObserver((list) => {
  for (const shift of list.getEntries()) {
    if (shift.hadRecentInput || shift.value < 0.001) continue;
    const what = shift.sources.map(({ node }) => node?.id || node?.nodeName);
    window.shifts.push(`${shift.value.toFixed(4)} ${what}`);
  }
}).observe({ type: "layout-shift", buffered: true });
document.addEventListener("securitypolicyviolation", ({ violatedDirective, blockedURI }) => {
  window.refused.push(`${violatedDirective} ${blockedURI}`);
});
"""


@contextmanager
def chromium(microphone: Path) -> Iterator[Browser]:
    """The browser; its microphone plays that wav file, and is given to whoever may ask for it."""
    program = shutil.which("chromium")
    assert program, "no chromium on this machine: run scripts/browser"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program,
            args=[
                "--no-sandbox",  # root has none
                "--use-fake-ui-for-media-stream",
                "--use-fake-device-for-media-stream",
                f"--use-file-for-fake-audio-capture={microphone}",
            ],
        )
        try:
            yield browser
        finally:
            browser.close()


class Visitor:
    """One visit. What went wrong unseen is collected in C(faults)."""

    def __init__(self, browser: Browser, url: str, **options: t.Any) -> None:
        self.context = browser.new_context(**options)
        self.context.add_init_script(_WATCH)
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(1000 * PATIENCE_SECONDS)
        self.noted: list[str] = []
        self.page.on("pageerror", lambda error: self.noted.append(str(error)))
        self.page.on("console", lambda message: self._note(message.type, message.text))
        # Shown where a test fails.
        self.page.on("requestfailed", lambda request: print(request.method, request.url, request.failure))
        self.page.goto(url)

    def _note(self, kind: str, text: str) -> None:
        # An answer that is an error is shown to the visitor; the browser notes it all the same.
        if kind in ("error", "warning") and not text.startswith("Failed to load resource"):
            self.noted.append(text)

    def faults(self) -> list[str]:
        """Exceptions, warnings, refusals by the page's own policy, and what moved by itself."""
        found: list[str] = self.page.evaluate("[...window.refused, ...window.shifts]")
        return self.noted + found

    def at(self, name: str) -> Locator:
        """The element of that id."""
        return self.page.locator(f"#{name}")

    def hears(self, pattern: str) -> str:
        """Wait for a sentence that is shown, and told to those who listen to the page."""
        expect(self.at("said")).to_have_text(re.compile(pattern), timeout=1000 * PATIENCE_SECONDS)
        expect(self.at("status")).to_have_text(re.compile(pattern), timeout=1000 * PATIENCE_SECONDS)
        return self.at("said").inner_text()

    def focused(self) -> str:
        """What has the focus: its id, else its name."""
        found: str = self.page.evaluate(
            "(({ id, name, tagName }) => id || name || tagName)(document.activeElement)"
        )
        return found

    def tab_to(self, name: str, most: int = 20) -> list[str]:
        """Press Tab until that has the focus; what had it on the way."""
        passed = []
        while not passed or passed[-1] != name:
            assert len(passed) < most, f"{name} is not reached by Tab: {passed}"
            self.page.keyboard.press("Tab")
            passed.append(self.focused())
            assert self._outlined(), f"{passed[-1]} does not show that it has the focus"
        return passed

    def _outlined(self) -> bool:
        """Whether one sees where the focus is: at the element, or at what stands for it."""
        found: bool = self.page.evaluate(
            """() => {
              const here = document.activeElement;
              const shown = [here, here.parentElement, here.nextElementSibling].filter(Boolean);
              return shown.some((each) => getComputedStyle(each).outlineStyle === "solid");
            }"""
        )
        return found

    def offered(self) -> None:
        """Take what is offered for download, without moving the focus there."""
        self.at("download").dispatch_event("click")

    def download(self, act: t.Callable[[], None]) -> bytes:
        """The file that comes of it."""
        with self.page.expect_download() as coming:
            act()
        return Path(coming.value.path()).read_bytes()

    def inaccessible(self) -> list[str]:
        """What axe finds wrong: contrast, names, roles, structure."""
        found = Axe().run(self.page).response["violations"]
        return [f"{each['id']}: {node['html']}" for each in found for node in each["nodes"]]

    def close(self) -> None:
        self.context.close()
