"""The site builds without a warning, has no broken link, and loads no external resource."""

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import pytest

from ..harness.site import build
from ..harness.template import ROOT

BASE = "https://site.invalid/"
CONFIG = "zensical.toml"

# Attributes with the address of a resource.
FETCHED = {"img": "src", "script": "src", "link": "href", "iframe": "src"}


@dataclass
class Page(HTMLParser):
    """The links, resources and anchors of a page."""

    html: str
    links: list[str] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)
    pictures_without_words: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = {name: value or "" for name, value in attrs}
        if "id" in named:
            self.anchors.add(named["id"])
        if tag == "a" and "href" in named:
            self.links.append(named["href"])
        if tag in FETCHED and FETCHED[tag] in named and named.get("rel") != "canonical":
            self.fetched.append(named[FETCHED[tag]])
        if tag == "img" and not named.get("alt"):
            self.pictures_without_words.append(named.get("src", ""))


def pages(site: Path) -> dict[str, Page]:
    """Return the pages of a site by address."""
    found = {}
    for file in site.rglob("*.html"):
        path = str(file.relative_to(site)).removesuffix("index.html")
        found[urljoin(BASE, path)] = Page(file.read_text())
    return found


def broken(site: Path) -> Iterator[str]:
    """Yield broken links: to a page, an image, an anchor."""
    there = pages(site)
    for address, page in there.items():
        for link in page.links + page.fetched:
            url, _, anchor = urljoin(address, link).partition("#")
            if not url.startswith(BASE):
                continue
            path = unquote(urlsplit(url).path).lstrip("/")
            if url not in there and not (site / path).is_file():
                yield f"{address}: {link}"
            elif anchor and anchor not in there[url].anchors:
                yield f"{address}: {link} has no such place"


def foreign(site: Path) -> Iterator[str]:
    """Yield external resources of a page."""
    for address, page in pages(site).items():
        for link in page.fetched:
            if not urljoin(address, link).startswith(BASE):
                yield f"{address}: {link}"


def navigation(entry: object) -> Iterator[str]:
    """Yield the files in the navigation."""
    match entry:
        case str():
            yield entry
        case dict():
            for inner in entry.values():
                yield from navigation(inner)
        case list():
            for inner in entry:
                yield from navigation(inner)


def test_site_has_no_broken_link_and_no_external_resource(site: Path) -> None:
    assert len(pages(site)) > 20
    assert list(broken(site)) == []
    assert list(foreign(site)) == []
    assert [
        page.pictures_without_words for page in pages(site).values() if page.pictures_without_words
    ] == []


def test_each_page_is_in_the_navigation_once() -> None:
    arranged = list(navigation(tomllib.loads((ROOT / CONFIG).read_text())["project"]["nav"]))
    written = [str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")]

    assert sorted(arranged) == sorted(written)


def test_each_page_is_in_the_folder_of_its_section() -> None:
    first, *sections = tomllib.loads((ROOT / CONFIG).read_text())["project"]["nav"]
    folders = {
        page: name.lower().replace(" ", "-")
        for section in sections
        for name, inner in section.items()
        for page in navigation(inner)
    }

    assert [*navigation(first)] == ["index.md"]
    assert {page: str(Path(page).parent) for page in folders} == folders


def test_next_links_lead_through_all_pages(site: Path) -> None:
    order = list(navigation(tomllib.loads((ROOT / CONFIG).read_text())["project"]["nav"]))
    seen = [site / "index.html"]
    while link := re.search(r'<a href="([^"]+)" class="[^"]*link--next"', seen[-1].read_text()):
        seen.append((seen[-1].parent / link[1] / "index.html").resolve())

    addresses = [name.removesuffix("index.md").removesuffix(".md") for name in order]
    assert seen == [site / address / "index.html" for address in addresses]


@pytest.mark.parametrize("news", ["[away](nowhere.md)", "[away](how-to/create.md#nowhere)"])
def test_builder_fails_for_a_broken_link(own_template: Path, news: str) -> None:
    with (own_template / "docs/index.md").open("a") as page:
        page.write(f"\n{news}\n")

    with pytest.raises(AssertionError, match="Aborted because --strict"):
        build(own_template)


@pytest.mark.parametrize(
    ("news", "said"),
    [
        ('<a href="nowhere/">away</a>', "nowhere/"),
        ('<a href="how-to/create/#nowhere">away</a>', "how-to/create/#nowhere has no such place"),
        ("![away](nowhere.svg)", "nowhere.svg"),
    ],
)
def test_broken_links_that_the_builder_accepts_are_reported(
    own_template: Path, news: str, said: str
) -> None:
    with (own_template / "docs/index.md").open("a") as page:
        page.write(f"\n{news}\n")

    assert any(one.endswith(said) for one in broken(build(own_template)))


def test_external_resources_are_reported(own_template: Path) -> None:
    with (own_template / "docs/index.md").open("a") as page:
        page.write('\n<script src="https://cdn.example/x.js"></script>\n')

    assert any("cdn.example" in one for one in foreign(build(own_template)))
