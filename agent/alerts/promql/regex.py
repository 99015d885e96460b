"""Prometheus's regular expressions (RE2 syntax) in terms of Python's `re`.

The parser has already refused what RE2-like engines refuse (backreferences, look-around). Here the
two dialects' differences are removed: POSIX classes, `\\z`, `\\Q…\\E`, `$`, ASCII-only `\\d\\w\\s`.
What would silently mean something else in Python is refused instead.
"""

from __future__ import annotations

import re

from agent.alerts.errors import ExprError

_POSIX = {
    "alnum": "0-9A-Za-z",
    "alpha": "A-Za-z",
    "ascii": "\\x00-\\x7f",
    "blank": "\\t ",
    "cntrl": "\\x00-\\x1f\\x7f",
    "digit": "0-9",
    "graph": "!-~",
    "lower": "a-z",
    "print": " -~",
    "punct": "!-/:-@\\[-`{-~",
    "space": "\\t\\n\\v\\f\\r ",
    "upper": "A-Z",
    "word": "0-9A-Za-z_",
    "xdigit": "0-9A-Fa-f",
}
_CLASSES = {"d": "0-9", "w": "0-9A-Za-z_", "s": "\\t\\n\\f\\r "}
_SAME = set("tnrfvabBxAdwsDWS")
_FLAGS = re.compile(r"\(\?([a-zA-Z]*)(-[a-zA-Z]+)?([:)])")
_POSIX_CLASS = re.compile(r"\[:(\^?)([a-z]+):\]")


def translate(pattern: str) -> re.Pattern[str]:
    """Compile an RE2 `pattern`; it is meant to be used with `fullmatch`.

    Raises:
        ExprError: Python's engine has no equal for a part of it.
    """
    try:
        return re.compile(_Translation(pattern).run(), re.DOTALL)
    except (re.error, OverflowError) as error:
        raise _refused(pattern, str(error)) from error


class _Translation:
    def __init__(self, pattern: str) -> None:
        self._p = pattern
        self._at = 0
        self._multiline = False
        self._pending: list[list[bool]] = [[]]
        self._group_start = 0

    def run(self) -> str:
        out: list[str] = []
        after_repeat = False
        while self._at < len(self._p):
            char = self._p[self._at]
            repeat = False
            if char == "\\":
                out.append(self._escape(in_class=False))
            elif char == "[":
                out.append(self._class())
            elif char == "(":
                out.append(self._open())
            elif char == ")":
                out.append(self._close())
            elif char == "|":
                out.append(self._alternative())
            elif char == "$" and not self._multiline:
                out.append(r"\Z")
                self._at += 1
            elif char in "*+?" or (char == "{" and self._counted()):
                # RE2 has no possessive repeats; Python would read `a++` as one.
                if after_repeat and char != "?":
                    raise _refused(self._p, "a repeat of a repeat")
                text = self._repeat()
                out.append(text)
                repeat = True
            else:
                out.append(char if char != "{" else r"\{")
                self._at += 1
            after_repeat = repeat
        return "".join(out) + ")" * len(self._pending[0])

    def _repeat(self) -> str:
        start = self._at
        if self._p[start] == "{":
            self._at = self._p.index("}", start) + 1
        else:
            self._at += 1
        if self._p[self._at : self._at + 1] == "?":
            self._at += 1
        return self._p[start : self._at]

    def _counted(self) -> bool:
        return re.match(r"\{[0-9]+(,[0-9]*)?\}", self._p[self._at :]) is not None

    def _open(self) -> str:
        if not self._p.startswith("(?", self._at):
            self._at += 1
            self._enter()
            return "("
        named = re.match(r"\(\?P?<([A-Za-z_][A-Za-z0-9_]*)>", self._p[self._at :])
        if named is not None:
            self._at += named.end()
            self._enter()
            return f"(?P<{named.group(1)}>"
        flags = _FLAGS.match(self._p, self._at)
        if flags is None or set(flags.group(1) + (flags.group(2) or "")) - set("ims-"):
            raise _refused(self._p, "a group that Python writes otherwise")
        if "m" in flags.group(1):
            self._multiline = True
        opens = flags.group(3) == ":"
        if opens:
            self._at = flags.end()
            self._enter()
            return flags.group()
        # Python has no flags for the rest of a group: a group of their own is opened instead, and
        # closed where the one around it ends.
        self._pending[-1].append(self._at == self._group_start)
        self._at = flags.end()
        return flags.group()[:-1] + ":"

    def _enter(self) -> None:
        self._pending.append([])
        self._group_start = self._at

    def _close(self) -> str:
        self._at += 1
        if len(self._pending) == 1:
            raise _refused(self._p, "an unopened )")
        return ")" * (len(self._pending.pop()) + 1)

    def _alternative(self) -> str:
        self._at += 1
        if not all(self._pending[-1]):
            raise _refused(self._p, "an alternative after flags; write them as (?i:…)")
        return "|"

    def _escape(self, in_class: bool) -> str:
        char = self._p[self._at + 1 : self._at + 2]
        if char == "Q":
            end = self._p.find("\\E", self._at)
            end = len(self._p) if end < 0 else end
            literal = self._p[self._at + 2 : end]
            self._at = end + 2
            return re.escape(literal)
        if char == "x" and self._p.startswith("{", self._at + 2):
            end = self._p.index("}", self._at)
            code = int(self._p[self._at + 3 : end], 16)
            self._at = end + 1
            return re.escape(chr(code))
        self._at += 2
        if char == "z" and not in_class:
            return r"\Z"
        if char in _CLASSES:
            return _CLASSES[char] if in_class else f"[{_CLASSES[char]}]"
        if char.lower() in _CLASSES and not in_class:
            return f"[^{_CLASSES[char.lower()]}]"
        if char.lower() in _CLASSES or (char.isalnum() and char not in _SAME):
            raise _refused(self._p, f"\\{char}")
        return "\\" + char

    def _class(self) -> str:
        out = ["["]
        self._at += 1
        if self._p[self._at : self._at + 1] == "^":
            out.append("^")
            self._at += 1
        first = True
        while first or self._p[self._at : self._at + 1] != "]":
            if self._at >= len(self._p):
                raise _refused(self._p, "an unclosed class")
            out.append(self._class_item())
            first = False
        self._at += 1
        return "".join([*out, "]"])

    def _class_item(self) -> str:
        posix = _POSIX_CLASS.match(self._p, self._at)
        if posix is not None:
            if posix.group(1) or posix.group(2) not in _POSIX:
                raise _refused(self._p, posix.group())
            self._at = posix.end()
            return _POSIX[posix.group(2)]
        char = self._p[self._at]
        if char == "\\":
            return self._escape(in_class=True)
        if self._p[self._at : self._at + 2] in ("&&", "||", "~~", "--"):
            raise _refused(self._p, "a set operation in a class")
        self._at += 1
        return "\\" + char if char in "[]&|~" else char


def _refused(pattern: str, what: str) -> ExprError:
    return ExprError(
        f"regular expression {pattern!r}: {what} is not supported", "write it in plainer terms"
    )
