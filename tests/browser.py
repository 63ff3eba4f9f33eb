"""What an HTML page holds, by a parser everywhere and by a real browser where there is one."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-headless-shell", "google-chrome"))), None)


@dataclass
class Page(HTMLParser):
    """What a page holds, read without a browser."""

    text: str
    tags: list[str] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)
    """Everything that a browser would fetch or go to."""
    images: list[dict[str, str]] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    samples: list[str] = field(default_factory=list)
    words: str = ""
    _within: list[str] = field(default_factory=list)
    _in_sample: bool = False

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {key: value or "" for key, value in attrs}
        self.tags.append(tag)
        self.addresses += [value for key, value in attributes.items() if key in {"src", "href", "srcset", "data"}]
        if tag == "img":
            self.images.append(attributes)
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")
        if "sample" in attributes.get("class", "").split():
            self.samples.append("")
            self._in_sample = True
        self._within.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._within and self._within.pop() != tag:
            pass
        self._in_sample = self._in_sample and tag != "div"
        self.handle_data("\n")

    def handle_data(self, data: str) -> None:
        if "style" in self._within:
            return
        self.words += data
        if {"td", "th"} & set(self._within):
            self.rows[-1][-1] += data.strip()
        if self._in_sample:
            self.samples[-1] += data


@dataclass(frozen=True)
class Rendered:
    """What a browser made of a page."""

    console: list[str]
    title: str
    fetched: list[str]
    figures: list[dict[str, Any]]
    words: str
    samples: list[str]
    overflow: int
    """Pixels that the page is wider than its window."""


HARNESS = """<!doctype html><meta charset="utf-8">
<iframe id="frame" src="PAGE" style="width: 1200px; height: 900px"></iframe><pre id="result"></pre>
<script>
function ink(image) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
  const context = canvas.getContext("2d");
  if (!canvas.width || !canvas.height) return 0;
  context.drawImage(image, 0, 0);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
  let dark = 0;
  for (let i = 0; i < pixels.length; i += 4) dark += pixels[i + 3] > 128 && pixels[i] + pixels[i + 1] < 400;
  return dark;
}
frame.onload = () => {
  const page = frame.contentDocument;
  result.textContent = JSON.stringify({
    title: page.title,
    fetched: frame.contentWindow.performance.getEntriesByType("resource").map(entry => entry.name),
    figures: [...page.images].map(i => ({alt: i.alt, width: i.naturalWidth, shown: i.clientWidth, ink: ink(i)})),
    words: page.body.innerText,
    samples: [...page.querySelectorAll(".sample")].map(sample => sample.innerText),
    overflow: page.documentElement.scrollWidth - page.documentElement.clientWidth,
  });
};
</script>"""


def render(page: Path, folder: Path) -> Rendered:
    """Open a page, as it is, in a frame of Chromium; no name is resolved, so nothing outside is asked for."""
    assert CHROMIUM is not None
    harness = folder / "harness.html"
    harness.write_text(HARNESS.replace("PAGE", page.as_uri()), encoding="utf-8")
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-extensions",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        "--allow-file-access-from-files",
        f"--user-data-dir={folder}/profile",
        "--enable-logging=stderr",
        "--log-level=0",
        "--virtual-time-budget=20000",
        "--dump-dom",
        harness.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    (found,) = re.findall('<pre id="result">(.*?)</pre>', done.stdout, re.DOTALL)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return Rendered(console, **json.loads(html.unescape(found)))
