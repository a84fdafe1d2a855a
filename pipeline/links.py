"""Every link of a published site, followed once; needs nothing but Python.

    python pipeline/links.py https://…/

reads all pages below that address and asks for every address that they link to or fetch. A page of the site must
answer, and have the anchor that is linked to. Of other sites, answers that only say "not to a program" count as there.
"""

from __future__ import annotations

import sys
import urllib.error
import urllib.request
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from urllib.parse import urldefrag, urljoin, urlparse

ANTI_BOT = (401, 403, 405, 406, 418, 429, 503, 999)
"""What sites answer to programs although the page is there for people."""
SECONDS = 30
AGENT = {"User-Agent": "Mozilla/5.0 (link check)"}


class Page(HTMLParser):
    """Addresses and anchors of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = {"", "top"}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src") and value and tag != "base":
                self.links.append(value)
            if (name == "id" or (name == "name" and tag == "a")) and value:
                self.anchors.add(value)


def fetch(address: str) -> tuple[int, str]:
    """Status and, of a page, its text; status 0 and the reason where nobody answered."""
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=AGENT), timeout=SECONDS) as answer:
            html = "html" in answer.headers.get("Content-Type", "")
            return answer.status, answer.read().decode("utf8", errors="replace") if html else ""
    except urllib.error.HTTPError as error:
        return error.code, ""
    except OSError as error:
        return 0, str(error)


def check(start: str, *, at_once: int = 8) -> list[str]:
    """Follow every link of the site that begins at ``start``; returns one line for each that is broken."""
    site = urljoin(start, ".")
    pages: dict[str, Page] = {}
    status: dict[str, tuple[int, str]] = {}
    linked: dict[str, set[str]] = {}  # address with anchor → pages that link to it
    todo = {start}
    with ThreadPoolExecutor(at_once) as pool:
        while todo:
            batch = sorted(todo)
            for address, (code, text) in zip(batch, pool.map(fetch, batch), strict=True):
                status[address] = (code, text if code == 0 else "")
                if code == 200 and text and address.startswith(site):
                    pages[address] = Page(text)
                    for link in pages[address].links:
                        target = urljoin(address, link)
                        if urlparse(target).scheme in ("http", "https"):
                            linked.setdefault(target, set()).add(address)
            todo = {urldefrag(target)[0] for target in linked} - set(status)
    broken = [f"{start}: {_reason(*status[start])}"] if status[start][0] != 200 else []
    return broken + list(_broken(site, linked, status, pages))


def _broken(
    site: str, linked: dict[str, set[str]], status: dict[str, tuple[int, str]], pages: dict[str, Page]
) -> Iterable[str]:
    for target, sources in sorted(linked.items()):
        address, anchor = urldefrag(target)
        code, reason = status[address]
        ours = address.startswith(site)
        where = f"{target} (on {min(sources)}{f' and {len(sources) - 1} more' * (len(sources) > 1)})"
        if not 200 <= code < 300 and (ours or code not in ANTI_BOT):
            yield f"{where}: {_reason(code, reason)}"
        elif ours and address in pages and anchor not in pages[address].anchors:
            yield f"{where}: the page has no such anchor"


def _reason(code: int, reason: str) -> str:
    return f"status {code}" if code else reason


def main() -> None:
    """Check the site at an address."""
    if len(sys.argv) != 2 or urlparse(sys.argv[1]).scheme not in ("http", "https"):
        sys.exit("error: the address of the published site is needed: make links SITE=https://…/")
    broken = check(sys.argv[1])
    print("\n".join(broken) or "every link answers")
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
