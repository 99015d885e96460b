"""Alertmanager's label matchers, such as `severity="critical"` or `"a name" =~ "x.*"`. Pure.

A matcher is a label's name, one of `=`, `!=`, `=~`, `!~`, and a value. Names and values that hold
anything but plain characters are quoted, as in Alertmanager's UTF-8 syntax; a quote, a backslash
and a newline are escaped there by a backslash. A label that is missing has the empty value. Regular
expressions are Prometheus's (RE2) and must match the whole value.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from agent.alerts.errors import ExprError
from agent.alerts.promql.regex import translate
from agent.errors import UsageError

_TOKEN = re.compile(
    r"\s*(?:(?P<op>=~|!~|!=|=)|(?P<mark>[{},])"
    r'|(?P<quoted>"(?:[^"\\]|\\.)*")|(?P<plain>[^\s{}!=~,\\"\'`]+))',
    re.DOTALL,
)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES = {'"': '"', "\\": "\\", "n": "\n"}
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class MatcherError(UsageError):
    """A text that is no matcher; the message says where."""

    def __init__(self, text: str, at: int, what: str) -> None:
        super().__init__(
            f"matcher {text!r}, character {at + 1}: {what}",
            'write name="value" with =, !=, =~ or !~; quote what is not plain',
        )


@dataclass(frozen=True, slots=True)
class Matcher:
    """One condition on one label."""

    name: str
    op: str
    value: str
    _regex: re.Pattern[str] | None = field(default=None, compare=False, repr=False)

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether the label set meets it."""
        told = labels.get(self.name, "")
        if self._regex is None:
            return (told == self.value) == (self.op == "=")
        return (self._regex.fullmatch(told) is not None) == (self.op == "=~")

    def __str__(self) -> str:
        name = self.name if _PLAIN.fullmatch(self.name) else _quoted(self.name)
        return f"{name}{self.op}{_quoted(self.value)}"


Matchers = tuple[Matcher, ...]


def parse(text: str) -> Matchers:
    """The matchers in `text`, which commas join; braces around them may be left out.

    Raises:
        MatcherError: it is something else.
    """
    tokens = list(_tokens(text))
    if tokens and tokens[0][1] == "{":
        if len(tokens) < 2 or tokens[-1][1] != "}":
            raise MatcherError(text, len(text), "the brace is not closed")
        tokens = tokens[1:-1]
    found: list[Matcher] = []
    while tokens:
        (at, name, kind), *tokens = tokens
        if kind not in ("plain", "quoted") or not name:
            raise MatcherError(text, at, "expected a label's name")
        if not tokens or tokens[0][2] != "op":
            raise MatcherError(text, at, f"no operator follows {name!r}")
        (_, op, _), *tokens = tokens
        value = ""
        if tokens and tokens[0][2] in ("plain", "quoted"):
            (_, value, _), *tokens = tokens
        found.append(make(name, op, value, text, at))
        if tokens:
            (at, mark, _), *tokens = tokens
            if mark != ",":
                raise MatcherError(text, at, "expected a comma")
    return tuple(found)


def parse_all(texts: Iterable[str]) -> Matchers:
    """The matchers of all `texts` together: each must hold. Raises MatcherError."""
    return tuple(matcher for text in texts for matcher in parse(text))


def make(name: str, op: str, value: str, text: str = "", at: int = 0) -> Matcher:
    """One matcher from its parts. Raises MatcherError."""
    if op not in ("=", "!=", "=~", "!~"):
        raise MatcherError(text or name, at, f"{op!r} is no operator")
    regex = None
    if op in ("=~", "!~"):
        try:
            regex = translate(value)
        except ExprError as error:
            raise MatcherError(text or value, at, str(error)) from None
    return Matcher(name, op, value, regex)


def match(matchers: Matchers, labels: Mapping[str, str]) -> bool:
    """Whether the label set meets every one of them."""
    return all(matcher.matches(labels) for matcher in matchers)


def _tokens(text: str) -> Iterable[tuple[int, str, str]]:
    at = 0
    while text[at:].strip():
        found = _TOKEN.match(text, at)
        if found is None:
            at += len(text[at:]) - len(text[at:].lstrip())
            raise MatcherError(text, at, f"unexpected {text[at]!r}")
        kind = found.lastgroup or ""
        told = found.group(kind)
        start = found.start(kind)
        if kind == "quoted":
            told = _unquoted(text, start, told[1:-1])
        yield start, told, kind
        at = found.end()


def _unquoted(text: str, start: int, inner: str) -> str:
    def plain(escape: re.Match[str]) -> str:
        if escape.group(1) not in _ESCAPES:
            raise MatcherError(text, start, f"unknown escape {escape.group(0)!r}")
        return _ESCAPES[escape.group(1)]

    return _ESCAPE.sub(plain, inner)


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
