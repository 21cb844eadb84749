"""Each page of the site in Chromium, on a phone and a desktop, light and dark."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from ..harness.screens import VIEWS, NoBrowserError, View, Visit, browser
from ..harness.site import build, served
from ..harness.template import ROOT

SCREENS = ROOT / "build/screens"
"""The directory of screenshots of failed pages."""

every_view = pytest.mark.parametrize("view", VIEWS, ids=str)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    try:
        with browser() as chromium:
            yield chromium
    except NoBrowserError as missing:
        pytest.skip(f"no screens without {missing}")


def addresses(site: Path) -> list[str]:
    """Return its pages, as they are linked."""
    found = (str(file.relative_to(site)) for file in sorted(site.rglob("*.html")))
    return [path.removesuffix("index.html") for path in found]


def findings(site: Path, view: View, browser: Browser, *paths: str) -> dict[str, list[str]]:
    """Return the faults by page, of all pages or of the given ones."""
    wrong = {}
    with served(site) as root, view.open(browser) as context:
        visit = Visit(context, root)
        for path in paths or addresses(site):
            if found := visit.findings(path):
                wrong[path] = found
                name = re.sub(r"\W+", "-", path).strip("-") or "index"
                visit.page.screenshot(path=SCREENS / f"{view}-{name}.png", full_page=True)
    return wrong


@every_view
def test_each_page_is_accessible_and_complete(site: Path, view: View, chromium: Browser) -> None:
    assert len(addresses(site)) > 20
    assert findings(site, view, chromium) == {}


BROKEN = """
<script>console.error("a line in the console")</script>
<script>throw new Error("a script that fails")</script>
<script src="nowhere.js"></script>
<p style="color: #777; background: #555">grey on grey</p>
<div style="width: 2000px">wide</div>

![there is none](nowhere.svg)
![black on black, white on white](unreadable.svg)
"""

UNREADABLE = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 2000 80" role="img"><title>Unreadable</title>
<rect width="1000" height="80" fill="#202020"/>
<text x="10" y="50" font-size="60" fill="#000">black on black</text>
<text x="1010" y="50" font-size="60" fill="#101010" class="dark">black on the page</text>
<text x="1500" y="50" font-size="60" fill="#f0f0f0" class="light">white on the page</text>
<text x="10" y="70" font-size="10" fill="#fff">small</text>
</svg>
"""


@every_view
def test_unreadable_page_is_reported(
    own_template: Path,
    view: View,
    chromium: Browser,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(f"{__name__}.SCREENS", tmp_path)
    with (own_template / "docs/index.md").open("a") as page:
        page.write(BROKEN)
    (own_template / "docs/unreadable.svg").write_text(UNREADABLE)

    output = "\n".join(findings(build(own_template), view, chromium, "")[""])

    for complaint in (
        "wider than the screen",
        "a line in the console",
        "a script that fails",
        "nowhere.js",
        "minimum color contrast ratio thresholds",
        "nowhere.svg does not show",
        ": black on black",
        {"light": ": white on the page", "dark": ": black on the page"}[view.scheme],
        " px: small",
    ):
        assert complaint in output
    unread = {"light": ": black on the page", "dark": ": white on the page"}[view.scheme]
    assert unread not in output
    assert (tmp_path / f"{view}-index.png").is_file()


@every_view
def test_picture_has_the_selected_color_scheme(site: Path, view: View, chromium: Browser) -> None:
    """The system's may be another one; a picture goes by `color-scheme`."""
    with served(site) as root, view.open(chromium) as context:
        page = Visit(context, root).page
        page.goto(f"{root}reference/vm/")
        seen = {}
        for _ in range(3):  # light, dark, and as the system again
            page.locator("[data-md-component=palette] label:visible").click()
            name = page.locator("body").get_attribute("data-md-color-scheme")
            seen[name] = page.locator("article img").evaluate(
                "i => getComputedStyle(i).colorScheme"
            )

    assert seen == {"default": "light", "slate": "dark"}
