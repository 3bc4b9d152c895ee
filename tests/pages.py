"""What must hold of a results page, wherever it was made: its numbers, its links, what a browser says."""

from __future__ import annotations

import csv
import json
import math
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

VOID = ("meta", "link", "img", "br")
NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:,\d{3})*(?:\.\d+)?(?:e[-+]?\d+)?(?!\w)")

CHECKS = """
<script>
addEventListener("load", async () => {
  const wrong = window.wrong;
  for (const image of document.images) {
    image.loading = "eager";
    await new Promise((done) => image.complete ? done() : (image.onload = image.onerror = done));
    if (!image.naturalWidth) wrong.push("picture " + image.getAttribute("src"));
  }
  if (document.documentElement.scrollWidth > innerWidth) wrong.push("wider than " + innerWidth);
  const head = document.querySelector("#tables .sortable thead th:last-child"), column = head.cellIndex;
  const values = () => [...head.closest("table").tBodies[0].rows].map((row) => row.cells[column].dataset.sort)
    .filter((value) => value !== "").map(Number);
  for (const sign of [1, -1]) {
    head.click();
    if (values().some((value, i, all) => i && sign * (value - all[i - 1]) < 0)) wrong.push("not sorted");
  }
  document.querySelector("a.large").click();
  if (!document.querySelector("dialog[open] img")) wrong.push("no large picture");
  const pictures = document.querySelectorAll("body > :not(dialog) img").length;
  parent.postMessage(JSON.stringify({ wrong, pictures, width: innerWidth }), "*");
});
</script></body>"""
FRAME = """
<iframe src="{name}" style="width: {width}px; height: 900px; border: 0"></iframe>
<script>onmessage = (event) => (document.title = "checked " + event.data);</script>"""
"""A window is 500 wide at least, a frame is not."""
CATEGORIES = """
<script>
addEventListener("load", async () => {
  const shown = {}, said = () => new Promise((done) => setTimeout(done, 200)).then(() => app.innerText);
  const app = document.querySelector("#app"), link = (text) => [...app.querySelectorAll("nav a")]
    .find((a) => a.textContent === text);
  for (const category of Object.keys(categories)) {
    await said();
    link(category)?.click();
    shown[category] = (await said()).includes(category) ? app.querySelectorAll("table tbody tr").length : 0;
    app.querySelector("nav nav a")?.click();
  }
  document.title = "checked " + JSON.stringify({ wrong: window.wrong, shown });
});
</script></body>"""
CATCH = """<head><script>
window.wrong = [];
addEventListener("error", (event) => wrong.push(event.message || "error"));
console.error = console.warn = (...said) => wrong.push(said.join(" "));
</script>"""


class Page(HTMLParser):
    """Texts by the CSV file that they say they are from, and all links, sources and targets."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[tuple[str, str | None]] = []
        self.texts: list[tuple[str | None, str, str]] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        self.links += [str(given[name]) for name in ("href", "src") if name in given]
        self.ids |= {str(given["id"])} if "id" in given else set()
        if tag not in VOID:
            above = self.stack[-1][1] if self.stack else None
            self.stack.append((tag, given.get("data-source", above)))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            tag, source = self.stack[-1]
            self.texts.append((source, tag, data.strip()))


def foreign_numbers(index: Path) -> Iterator[str]:
    """Numbers of a page that no CSV file has, or that do not say from which one they are."""
    page = Page(index.read_text())
    for source, tag, text in page.texts:
        if tag == "th":
            continue
        if source is None:
            if tag in ("td", "dd", "li", "small") and NUMBER.search(text):
                yield f"{text}: from nowhere"
            continue
        known, values = _csv(index.parent / source)
        for word in text.replace("−", "-").split():
            name = word.strip("(),;.[]")
            found = [] if name in known and not NUMBER.fullmatch(name) else NUMBER.findall(word)
            yield from (f"{text}: {number} is not in {source}" for number in found if not _is_in(number, values))


@cache
def _csv(path: Path) -> tuple[str, list[float]]:
    with path.open(newline="") as stream:
        fields = [field for row in csv.reader(stream) for field in row]
    return "\n".join(fields), [float(number.replace(",", "")) for field in fields for number in NUMBER.findall(field)]


def _is_in(number: str, values: list[float]) -> bool:
    """Whether a number is one of the values, rounded as it is."""
    mantissa, _, exponent = number.replace(",", "").partition("e")
    half = 0.5000001 * 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
    value = float(number.replace(",", ""))
    digits = len(mantissa.strip("-+0.").replace(".", ""))
    whole = 0.5 * 10 ** (math.floor(math.log10(abs(value))) - digits + 1) if value and "." not in mantissa else 0
    return any(abs(value - each) <= max(half, whole) for each in values)


def broken_links(index: Path) -> list[str]:
    """Links that lead nowhere, or out of the folder."""
    page = Page(index.read_text())
    assert len(page.links) > 10
    inside = {f"#{name}" for name in page.ids} | {"data:,"}
    return [link for link in page.links if link not in inside and (".." in link or not (index.parent / link).is_file())]


def in_a_browser(index: Path, width: int, scheme: int) -> dict[str, Any]:
    """What headless chromium says of a page: what is wrong, how many pictures, its width; scheme 0 is dark, 1 light."""
    frame, copy = (index.with_name(f"checked{part}-{width}-{scheme}.html") for part in ("", "-page"))
    frame.write_text(FRAME.format(name=copy.name, width=width))
    copy.write_text(index.read_text().replace("<head>", CATCH, 1).replace("</body>", CHECKS, 1))
    try:
        return _checked(frame, f"--blink-settings=preferredColorScheme={scheme}")
    finally:
        frame.unlink()
        copy.unlink()


def report_in_a_browser(report: Path) -> dict[str, Any]:
    """What chromium says of Snakemake's report: what is wrong, and how many results each category shows on a click."""
    copy = report.with_name("checked-report.html")
    before, _, after = report.read_text().rpartition("</body>")
    copy.write_text(before.replace("<head>", CATCH, 1) + CATEGORIES + after)
    try:
        return _checked(copy)
    finally:
        copy.unlink()


def _checked(page: Path, *flags: str) -> dict[str, Any]:
    """What a page's script has put into its title."""
    command = [str(shutil.which("chromium")), "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1600,1000"]
    command += [*flags, "--virtual-time-budget=20000", "--dump-dom", page.resolve().as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    found = re.search(r"<title>checked (.*?)</title>", done.stdout)
    assert found, done.stderr[-2000:]
    return json.loads(found[1])
