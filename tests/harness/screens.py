"""Pages in Chromium: checked as rendered, with a screenshot of each that fails.

Requires Debian's chromium, Google Chrome, or `playwright install chromium`.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Error,
    Page,
    Request,
    sync_playwright,
)

AXE = {"runOnly": ["color-contrast"], "resultTypes": ["violations"]}

OVERFLOWS = "document.scrollingElement.scrollWidth > innerWidth"

IMAGES = """async () => {
    const backdrop = (element) => {
        const colour = getComputedStyle(element).backgroundColor
        return colour !== "rgba(0, 0, 0, 0)" ? colour : backdrop(element.parentElement)
    }
    return await Promise.all([...document.images].map(async (image) => {
        image.loading = "eager"
        await image.decode().catch(() => {})
        const shown = image.naturalWidth > 0 && image.clientWidth > 0 && image.clientHeight > 0
        return [image.src, shown, image.clientWidth, backdrop(image)]
    }))
}"""

UNREADABLE = """([backdrop, width]) => {
    const luminance = (colour) => colour.match(/[\\d.]+/g).slice(0, 3)
        .map((value) => value / 255)
        .map((value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
        .reduce((sum, value, i) => sum + value * [0.2126, 0.7152, 0.0722][i], 0)
    const contrast = (...colours) => {
        const [dark, light] = colours.map(luminance).sort((a, b) => a - b)
        return (light + 0.05) / (dark + 0.05)
    }
    const fill = (element) => getComputedStyle(element).fill
    const words = (node) => node.nodeType === Node.TEXT_NODE && node.data.trim()
    const scale = width / document.documentElement.viewBox.baseVal.width
    return [...document.querySelectorAll("text, tspan")].flatMap((text) => {
        const content = [...text.childNodes].filter(words).map((node) => node.data).join("")
        if (!content) return []
        const box = text.getBoundingClientRect()
        const behind = document.elementsFromPoint(box.x + box.width / 2, box.y + box.height / 2)
            .find((element) => !element.matches("svg, text, tspan") && fill(element) !== "none")
        const ratio = contrast(fill(text), behind ? fill(behind) : backdrop)
        const size = scale * parseFloat(getComputedStyle(text).fontSize)
        return [
            ...ratio < 4.5 ? [`a contrast of ${ratio.toFixed(1)}: ${content}`] : [],
            ...size < 9 ? [`letters of ${size.toFixed(1)} px: ${content}`] : [],
        ]
    })
}"""
"""For a picture of `width` pixels on a page of that colour. 4.5 is the contrast of WCAG AA."""


class NoBrowserError(Exception):
    """There is no Chromium on this machine."""


@contextmanager
def browser() -> Iterator[Browser]:
    """Yield a Chromium without a screen; raises `NoBrowserError`."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as driver:
        try:
            chromium = driver.chromium.launch(executable_path=program, timeout=180_000)
        except Error as error:
            if program:
                raise
            raise NoBrowserError("chromium") from error
        with chromium:
            yield chromium


@dataclass(frozen=True)
class View:
    """A viewport and colour scheme."""

    device: str
    width: int
    height: int
    scheme: Literal["light", "dark"]

    def __str__(self) -> str:
        return f"{self.device}-{self.scheme}"

    def open(self, browser: Browser) -> BrowserContext:
        """Open the browser context."""
        viewport = {"width": self.width, "height": self.height}
        context = browser.new_context(viewport=viewport, color_scheme=self.scheme)  # type: ignore[arg-type]
        context.set_default_timeout(120_000)  # milliseconds
        return context


VIEWS = [
    View(device, width, height, scheme)
    for device, width, height in (("phone", 390, 844), ("desktop", 1280, 800))
    for scheme in ("light", "dark")
]


@dataclass
class Visit:
    """A browser session that opens pages one after another."""

    context: BrowserContext
    root: str
    """The site's address; a request to another is a finding."""
    page: Page = field(init=False)
    messages: list[str] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.page = self.context.new_page()
        self.page.on("console", self.console)
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.on("requestfailed", self.failed)
        self.page.on("request", self.request)

    def console(self, line: ConsoleMessage) -> None:
        """Record an error of the console, including failed responses."""
        if line.type == "error":
            self.messages.append(f"{line.text} ({line.location['url']})")

    def failed(self, request: Request) -> None:
        """Record a failed request, except those that navigation cancels."""
        if request.failure != "net::ERR_ABORTED":
            self.messages.append(f"failed request: {request.url}")

    def request(self, request: Request) -> None:
        """Record requests to other addresses."""
        if not request.url.startswith((self.root, "data:")):
            self.messages.append(f"request to another site: {request.url}")

    def findings(self, path: str) -> list[str]:
        """Return the faults of a page in this view."""
        self.messages.clear()
        self.page.goto(self.root + path)
        faults = ["wider than the screen"] if self.page.evaluate(OVERFLOWS) else []
        for violation in (
            Axe().run(self.page, context="article", options=AXE).response["violations"]
        ):
            places = [" ".join(node["target"]) for node in violation["nodes"]]
            faults.append(f"{violation['help']}: {', '.join(places)}")
        images = self.page.evaluate(IMAGES)
        faults += self.messages  # before other pages are opened
        for address, shown, width, backdrop in images:
            name = address.removeprefix(self.root)
            if not shown:
                faults.append(f"{name} does not show")
            elif name.endswith(".svg"):
                words = self.unreadable(address, width, backdrop)
                faults += [f"{name} has {what}" for what in words]
        return faults

    def unreadable(self, picture: str, width: int, backdrop: str) -> list[str]:
        """Return the unreadable texts of an SVG at its size and on its background."""
        page = self.context.new_page()
        page.set_viewport_size({"width": 2000, "height": 2000})  # else elements are not hit
        page.goto(picture)
        words: list[str] = page.evaluate(UNREADABLE, [backdrop, width])
        page.close()
        return words
