"""Known secret values never leave: the last net under every log line and notification.

The net is not the design (no code passes a value to a log in the first place); it is what remains
when a foreign library's message carries one. Values are registered as they are fetched, whole, by
field and by line, each in the forms that text takes on its way: escaped as in JSON or a repr,
URL-encoded, base64 (also inside a longer base64 text), hex for what is no text. Text that is about
to leave is scrubbed of them. A value that was replaced is searched for until the next replaces it
in turn. Values shorter than `MIN_LENGTH` are not searched for: they would blank out ordinary words.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote, quote_plus, urlsplit

MASK = "[redacted]"
MIN_LENGTH = 6
_MIN_LINE = 16
_MIN_BASE64 = 8
_DEEPEST = 20


class Redactor:
    """A set of secret texts, and the scrubbing of anything that may contain one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: dict[str, int] = {}
        self._known: dict[str, tuple[frozenset[str], frozenset[str]]] = {}
        self._ordered: tuple[str, ...] | None = ()

    def learn(self, name: str, value: bytes) -> None:
        """Register the value of secret `name`, replacing the one before its last."""
        mark = hash(value)
        if self._seen.get(name) == mark:
            return
        texts = frozenset(form for form in _forms(value) if len(form) >= MIN_LENGTH)
        with self._lock:
            before = self._known.get(name, (frozenset(), frozenset()))[0]
            self._seen[name] = mark
            if texts == before:
                return
            self._known[name] = (texts, before)
            self._ordered = None

    def scrub(self, text: str) -> str:
        """`text` with every known value masked."""
        for value in self._longest_first():
            if value in text:
                text = text.replace(value, MASK)
        return text

    def scrub_tree(self, value: Any) -> Any:
        """A JSON-like tree with every string in it scrubbed, keys too. What is no JSON (an
        exception, bytes) comes back as its scrubbed repr, for that is how it would be written."""
        if not self._longest_first() or value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, str):
            return self.scrub(value)
        if isinstance(value, Mapping):
            return {self.scrub(str(key)): self.scrub_tree(item) for key, item in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self.scrub_tree(item) for item in value]
        return self.scrub(repr(value))

    def _longest_first(self) -> tuple[str, ...]:
        """Every known text, put in order when first asked for after a change: longest first, so
        that a value which contains another is masked whole."""
        ordered = self._ordered
        if ordered is None:
            with self._lock:
                groups = (group for pair in self._known.values() for group in pair)
                ordered = tuple(sorted({text for group in groups for text in group}, key=len))[::-1]
                self._ordered = ordered
        return ordered


def _forms(value: bytes) -> Iterable[str]:
    """Every form in which a value could turn up in text."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        yield value.hex()
        yield repr(value)[2:-1]
        yield from _base64(value)
        return
    for part in {text, text.strip(), *_parts(text)}:
        if len(part) >= MIN_LENGTH:
            yield part
            yield json.dumps(part)[1:-1]
            yield json.dumps(part, ensure_ascii=False)[1:-1]
            yield repr(part)[1:-1]
            yield quote(part, safe="")
            yield quote(part)
            yield quote_plus(part)
            yield from _base64(part.encode())


def _base64(value: bytes) -> Iterable[str]:
    """Base64 of `value`, standing alone and at each offset inside a longer text (`user:password`):
    only the digits that `value` alone decides."""
    if len(value) < _MIN_BASE64:
        return
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        for offset in range(3):
            digits = encode(bytes(offset) + value).decode().rstrip("=")
            first = (offset * 8 + 5) // 6
            last = (offset + len(value)) * 8 // 6
            yield digits[first:last]


def _parts(text: str) -> Iterable[str]:
    yield from _lines(text)
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError):
        return
    yield from _leaves(tree, "", 0)


def _lines(text: str) -> Iterable[str]:
    """The lines of a text of several, such as a private key: logs tear them apart."""
    if "\n" in text.strip():
        yield from (line.strip() for line in text.splitlines() if len(line.strip()) >= _MIN_LINE)


def _leaves(tree: object, field: str, depth: int) -> Iterable[str]:
    if depth > _DEEPEST:
        return
    if isinstance(tree, dict):
        for key, item in tree.items():
            yield from _leaves(item, key, depth + 1)
    elif isinstance(tree, list):
        for item in tree:
            yield from _leaves(item, field, depth + 1)
    elif isinstance(tree, str) and _looks_secret(field, tree):
        yield tree
        yield from _lines(tree)
    elif isinstance(tree, int) and not isinstance(tree, bool) and _looks_secret(field, ""):
        yield str(tree)


_PUBLIC_FIELDS = frozenset(
    (
        *("host", "hostname", "port", "username", "user", "database", "dbname"),
        *("ssl_mode", "sslmode", "region", "bucket", "account_id", "client_id", "api_version"),
    )
)
_ADDRESS_FIELDS = frozenset(("url", "uri", "endpoint"))


def _looks_secret(field: str, value: str) -> bool:
    """A field of a JSON secret that is not plainly an address or a name. An address with more than
    a host in it is one: a webhook, a connection string with its password."""
    name = field.lower()
    if name in _ADDRESS_FIELDS:
        try:
            parts = urlsplit(value)
        except ValueError:
            return True
        return "@" in value or bool(parts.query) or len(parts.path) > 1
    return name not in _PUBLIC_FIELDS


REDACTOR = Redactor()
"""The process's one net: shared by logging, the outbox and the face."""
