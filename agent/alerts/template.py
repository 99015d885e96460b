"""Templates of labels and annotations: the part of Go's text/template that alert rules use.

Compiled when a rule is loaded, and refused then if anything is unknown: a function, a variable, an
action. Rendering never raises: what goes wrong is told in the text, as Prometheus does, for a page
with a broken description is better than no page.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from agent.alerts import templateblocks as b
from agent.alerts.errors import AlertsError
from agent.alerts.gofmt import show
from agent.alerts.templateblocks import Query, Scope
from agent.alerts.templatefuncs import FUNCTIONS, RenderError

_ROOT = ("Labels", "ExternalLabels", "ExternalURL", "Value")
_GIVEN = {
    "$labels": "Labels",
    "$externalLabels": "ExternalLabels",
    "$externalURL": "ExternalURL",
    "$value": "Value",
}
_ACTION = re.compile(r"\{\{(-\s)?\s*(.*?)\s*(\s-)?\}\}", re.DOTALL)
_TOKEN = re.compile(
    r"""\s*(?:
      (?P<text>"(?:[^"\\\n]|\\.)*"|`[^`]*`)
    | (?P<number>[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)
    | (?P<variable>\$\w*)
    | (?P<field>\.\w+)
    | (?P<word>\w+)
    | (?P<mark>:=|[|(),=.])
    )""",
    re.VERBOSE,
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", '"': '"', "'": "'"}
_LONGEST = 1024 * 1024


class TemplateError(AlertsError):
    """A template uses what is not supported, or is not a template."""


class Template:
    """A compiled template. Made by `Template.compile`."""

    __slots__ = ("_block", "text")

    def __init__(self, text: str, block: b.Block | None) -> None:
        self.text = text
        self._block = block

    @classmethod
    def compile(cls, text: str) -> Template:
        """Check `text` whole.

        Raises:
            TemplateError: it uses an action, a function or a variable that is not known here.
        """
        if "{{" not in text:
            return cls(text, None)
        return cls(text, _Parser(text).parse())

    def render(
        self,
        labels: Mapping[str, str],
        value: float,
        external_labels: Mapping[str, str],
        query: Query | None = None,
    ) -> str:
        """The text for an alert with these labels and this value."""
        if self._block is None:
            return self.text
        root = {
            "Labels": dict(labels),
            "ExternalLabels": dict(external_labels),
            "ExternalURL": "",
            "Value": value,
        }
        variables: dict[str, Any] = {name: root[field] for name, field in _GIVEN.items()}
        variables["$"] = root
        out: list[str] = []
        try:
            self._block(Scope(variables, root, query), out)
        except (RenderError, AlertsError, ArithmeticError, TypeError, ValueError) as error:
            return f"<error expanding template: {error}>"
        return "".join(out)[:_LONGEST]


class _Tokens:
    """The tokens of one action."""

    def __init__(self, text: str) -> None:
        self.items: list[tuple[str, str, bool]] = []
        at = 0
        while at < len(text.rstrip()):
            match = _TOKEN.match(text, at)
            if match is None or match.lastgroup is None:
                raise TemplateError(
                    f"{text[at:].strip()[:40]!r} is not understood in {{{{{text}}}}}"
                )
            kind = match.lastgroup
            spaced = match.start(kind) > at or at == 0
            self.items.append((kind, match.group(kind), spaced))
            at = match.end()
        self.at = 0

    def peek(self) -> tuple[str, str, bool]:
        return self.items[self.at] if self.at < len(self.items) else ("end", "", True)

    def take(self) -> tuple[str, str, bool]:
        item = self.peek()
        self.at += 1
        return item

    def accept(self, value: str) -> bool:
        if self.peek()[1] == value and self.peek()[0] in ("mark", "word"):
            self.at += 1
            return True
        return False


class _Parser:
    """Splits a template into text and actions, and builds blocks of them."""

    def __init__(self, text: str) -> None:
        self._pieces = _split(text)
        self._at = 0
        self._variables: list[dict[str, str]] = [{name: name for name in (*_GIVEN, "$")}]
        self._declared = 0
        self._root_dot = True

    def parse(self) -> b.Block:
        block, end = self._block(())
        assert end is None
        return block

    def _block(self, ends: tuple[str, ...]) -> tuple[b.Block, _Tokens | None]:
        """Blocks up to an action that begins with one of `ends`, which is returned."""
        parts: list[b.Block] = []
        self._variables.append({})
        while self._at < len(self._pieces):
            is_action, text = self._pieces[self._at]
            self._at += 1
            if not is_action:
                parts.append(b.literal(text))
                continue
            tokens = _Tokens(text)
            word = tokens.peek()[1] if tokens.peek()[0] == "word" else ""
            if word in ends:
                tokens.take()
                self._variables.pop()
                return b.sequence(parts), tokens
            parts.append(self._action(word, tokens))
        self._variables.pop()
        if ends:
            raise TemplateError("an {{if}}, {{with}} or {{range}} has no {{end}}")
        return b.sequence(parts), None

    def _action(self, word: str, tokens: _Tokens) -> b.Block:
        if word in ("if", "with", "range"):
            tokens.take()
            return self._branch(word, tokens)
        if word in ("end", "else"):
            raise TemplateError(f"{{{{{word}}}}} without a beginning")
        if word in ("define", "template", "block", "break", "continue"):
            raise TemplateError(f"{{{{{word}}}}} is not supported")
        names = self._declaration(tokens)
        value = self._pipeline(tokens)
        self._finish(tokens)
        if len(names) > 1:
            raise TemplateError("two variables are declared outside of a range")
        if names:
            return b.assign(names[0], value)
        return lambda scope, out: out.append(show(value(scope)))

    def _declaration(self, tokens: _Tokens) -> list[str]:
        """The variables that an action sets: `$x :=`, `$x =` or `$i, $x :=`."""
        start, names = tokens.at, list[str]()
        while tokens.peek()[0] == "variable":
            names.append(tokens.take()[1])
            if not tokens.accept(","):
                break
        if names and tokens.accept(":="):
            return [self._declare(name) for name in names]
        if names and tokens.accept("="):
            return [self._known(name) for name in names]
        tokens.at = start
        return []

    def _branch(self, word: str, tokens: _Tokens) -> b.Block:
        self._variables.append({})
        names = self._declaration(tokens)
        value = self._pipeline(tokens)
        self._finish(tokens)
        root_dot = self._root_dot
        self._root_dot = root_dot and word == "if"
        then, end = self._block(("else", "end"))
        self._root_dot = root_dot
        assert end is not None
        otherwise: b.Block = b.sequence([])
        if self._word_before(end) == "else":
            if end.peek()[1] in ("if", "with"):
                otherwise = self._branch(end.take()[1], end)
            else:
                self._finish(end)
                otherwise, end = self._block(("end",))
                assert end is not None
                self._finish(end)
        else:
            self._finish(end)
        self._variables.pop()
        if word == "range":
            return b.loop(names, value, then, otherwise)
        if len(names) > 1:
            raise TemplateError(f"{{{{{word}}}}} declares one variable at most")
        return b.choice(word == "with", names, value, then, otherwise)

    @staticmethod
    def _word_before(tokens: _Tokens) -> str:
        return tokens.items[tokens.at - 1][1]

    @staticmethod
    def _finish(tokens: _Tokens) -> None:
        if tokens.peek()[0] != "end":
            raise TemplateError(f"{tokens.peek()[1]!r} is not expected here")

    def _declare(self, name: str) -> str:
        """A place of its own for a variable: an inner one hides the outer, and ends with its
        block."""
        self._declared += 1
        place = f"{name}#{self._declared}"
        self._variables[-1][name] = place
        return place

    def _known(self, name: str) -> str:
        for level in reversed(self._variables):
            if name in level:
                return level[name]
        raise TemplateError(f"variable {name} is not defined")

    def _pipeline(self, tokens: _Tokens) -> b.Eval:
        value = self._command(tokens, None)
        while tokens.accept("|"):
            value = self._command(tokens, value)
        return value

    def _command(self, tokens: _Tokens, piped: b.Eval | None) -> b.Eval:
        kind, text, _ = tokens.peek()
        if kind == "word" and text not in ("true", "false", "nil"):
            tokens.take()
            function = FUNCTIONS.get(text)
            if function is None:
                raise TemplateError(f"function {text} is not supported")
            args = self._arguments(tokens)
            return b.call(text, function, [*args, piped] if piped else args)
        first = self._operand(tokens)
        if piped is not None or self._starts_operand(tokens):
            raise TemplateError("only a function takes arguments")
        return first

    def _arguments(self, tokens: _Tokens) -> list[b.Eval]:
        args: list[b.Eval] = []
        while self._starts_operand(tokens):
            if tokens.peek()[0] == "word" and tokens.peek()[1] not in ("true", "false", "nil"):
                name = tokens.take()[1]
                function = FUNCTIONS.get(name)
                if function is None:
                    raise TemplateError(f"function {name} is not supported")
                args.append(b.call(name, function, []))
            else:
                args.append(self._operand(tokens))
        return args

    @staticmethod
    def _starts_operand(tokens: _Tokens) -> bool:
        kind, text, _ = tokens.peek()
        return kind not in ("end", "mark") or text in ("(", ".")

    def _operand(self, tokens: _Tokens) -> b.Eval:
        kind, text, _ = tokens.take()
        value: b.Eval
        if kind == "text":
            value = b.constant(_unquoted(text))
        elif kind == "number":
            value = b.constant(float(text) if set(text) & set(".eE") else int(text))
        elif kind == "word":
            value = b.constant({"true": True, "false": False, "nil": None}[text])
        elif kind == "variable":
            value = b.variable(self._known(text))
        elif kind == "field":
            if self._root_dot and text[1:] not in _ROOT:
                raise TemplateError(f"{text} is not known; {', '.join('.' + r for r in _ROOT)} are")
            value = b.field(lambda scope: scope.dot, text[1:])
        elif text == ".":
            return lambda scope: scope.dot
        elif text == "(":
            value = self._pipeline(tokens)
            if not tokens.accept(")"):
                raise TemplateError("a ) is missing")
        else:
            raise TemplateError(f"{text or 'nothing'!r} where a value was expected")
        while tokens.peek()[0] == "field" and not tokens.peek()[2]:
            value = b.field(value, tokens.take()[1][1:])
        return value


def _split(text: str) -> list[tuple[bool, str]]:
    """Texts and actions, with the white space that `{{-` and `-}}` eat gone."""
    pieces: list[tuple[bool, str]] = []
    at, trim = 0, False
    for match in _ACTION.finditer(text):
        before = text[at : match.start()]
        before = before.lstrip() if trim else before
        pieces.append((False, before.rstrip() if match.group(1) else before))
        inner = match.group(2)
        if not (inner.startswith("/*") and inner.endswith("*/")):
            if not inner:
                raise TemplateError("an action is empty: {{}}")
            pieces.append((True, inner))
        at, trim = match.end(), match.group(3) is not None
    rest = text[at:]
    if "{{" in rest:
        raise TemplateError("an action is not closed: {{ without }}")
    pieces.append((False, rest.lstrip() if trim else rest))
    return pieces


def _unquoted(text: str) -> str:
    if text.startswith("`"):
        return text[1:-1]

    def one(match: re.Match[str]) -> str:
        found = _ESCAPES.get(match.group(1))
        if found is None:
            raise TemplateError(f"escape {match.group()} is not supported")
        return found

    return re.sub(r"\\(.)", one, text[1:-1])
