"""Headless Chromium, as a person's eyes: what the document holds after the page's script has run.

A new profile for each look; the network log tells every request that the browser made for the page.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from shutil import which

CHROMIUM = which("chromium")

_FLAGS = (
    *("--headless", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--proxy-server=direct://",
    # The browser itself likes to call home: no name resolves, so nothing leaves this machine.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
_VOID = {"meta", "link", "br", "img", "input", "hr"}


@dataclass
class Seen:
    """One look at a page."""

    dom: str
    title: str
    text: str
    tags: list[tuple[str, dict[str, str]]]
    requested: set[str]

    def has(self, tag: str, **attributes: str) -> bool:
        """Whether some element has these attributes (`class_` for class)."""
        wanted = {name.rstrip("_").replace("_", "-"): v for name, v in attributes.items()}
        return any(
            name == tag and all(found.get(key) == value for key, value in wanted.items())
            for name, found in self.tags
        )


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.title = ""
        self._open: list[tuple[str, bool]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in _VOID:
            hidden = tag in ("script", "style", "noscript", "title") or "hidden" in dict(attrs)
            self._open.append((tag, hidden))

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1][0] == "title":
            self.title += data
        if not any(hidden for _, hidden in self._open):
            self.texts.append(data)


def parse(dom: str, requested: set[str] | None = None) -> Seen:
    """A document as a person reads it: its visible text with single spaces."""
    reader = _Reader()
    reader.feed(dom)
    text = re.sub(r"\s+", " ", " ".join(reader.texts))
    return Seen(dom, reader.title, text, reader.tags, requested or set())


async def look(url: str, profile: Path, *flags: str, budget_ms: int = 3000) -> Seen:
    """The page after `budget_ms` of its own time."""
    assert CHROMIUM is not None
    log = profile / "net.json"
    command = [
        CHROMIUM,
        *_FLAGS,
        *(("--no-sandbox",) if os.geteuid() == 0 else ()),
        f"--user-data-dir={profile}",
        f"--log-net-log={log}",
        f"--virtual-time-budget={budget_ms}",
        *flags,
        "--dump-dom",
        url,
    ]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        out, _ = await asyncio.wait_for(process.communicate(), 40.0)
    except BaseException:
        process.kill()
        await process.wait()
        raise
    return parse(out.decode(), _requests(log))


def _requests(log: Path) -> set[str]:
    """Every URL that was asked for by a page; what the browser asks of itself has no origin."""
    text = log.read_text(encoding="utf-8")
    try:
        events = json.loads(text)["events"]
    except ValueError:  # the browser left before it had closed the list
        events = json.loads(text.rstrip().rstrip(",") + "]}")["events"]
    return {
        event["params"]["url"]
        for event in events
        if isinstance(event.get("params"), dict)
        and event["params"].get("initiator", "not an origin") != "not an origin"
    }
