"""Known secret values never leave: the last net under every log line and notification.

The net is not the design (no code passes a value to a log in the first place); it is what remains
when a foreign library's message carries one. Values are registered as they are fetched; text that
is about to leave is scrubbed of them. Values shorter than `MIN_LENGTH` are not searched for: they
would blank out ordinary words.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Mapping
from typing import Any

MASK = "[redacted]"
MIN_LENGTH = 6


class Redactor:
    """A set of secret texts, and the scrubbing of anything that may contain one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, frozenset[str]] = {}
        self._ordered: tuple[str, ...] = ()

    def learn(self, name: str, value: bytes) -> None:
        """Register the value of secret `name`, whole and by field, replacing its earlier value."""
        texts = frozenset(text for text in _texts(value) if len(text) >= MIN_LENGTH)
        with self._lock:
            if self._known.get(name) == texts:
                return
            self._known[name] = texts
            everything = {text for group in self._known.values() for text in group}
            # Longest first, so that a value which contains another is masked whole.
            self._ordered = tuple(sorted(everything, key=len, reverse=True))

    def scrub(self, text: str) -> str:
        """`text` with every known value masked."""
        for value in self._ordered:
            if value in text:
                text = text.replace(value, MASK)
        return text

    def scrub_tree(self, value: Any) -> Any:
        """A JSON-like tree with every string in it scrubbed, keys too."""
        if not self._ordered:
            return value
        if isinstance(value, str):
            return self.scrub(value)
        if isinstance(value, Mapping):
            return {self.scrub(str(key)): self.scrub_tree(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.scrub_tree(item) for item in value]
        return value


def _texts(value: bytes) -> Iterable[str]:
    """The forms in which a value could turn up in text."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return
    yield text
    yield text.strip()
    try:
        tree = json.loads(text)
    except ValueError:
        return
    if isinstance(tree, dict):
        for key, item in tree.items():
            if isinstance(item, str) and _looks_secret(key):
                yield item


_PUBLIC_FIELDS = frozenset(
    (
        *("host", "hostname", "port", "username", "user", "database", "dbname"),
        *("ssl_mode", "sslmode", "region", "bucket", "account_id", "client_id"),
        *("api_version", "endpoint", "url"),
    )
)


def _looks_secret(field: str) -> bool:
    """A field of a JSON secret that is not plainly an address or a name."""
    return field.lower() not in _PUBLIC_FIELDS


REDACTOR = Redactor()
"""The process's one net: shared by logging, the outbox and the face."""
