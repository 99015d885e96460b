"""Rule files: Prometheus's own format, read strictly.

Every file is read whole and every problem is told at once, with file, line, group and rule; a rule
that cannot be judged here is refused here, never skipped. What passes also passes
`promtool check rules`.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from agent.alerts import promql
from agent.alerts.errors import AlertsError, ExprError, RuleError
from agent.alerts.promql import Expression
from agent.alerts.template import Template
from agent.units import Seconds

_DURATION = re.compile(
    r"(?:(\d+)y)?(?:(\d+)w)?(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?(?:(\d+)ms)?"
)
_UNITS = (31_536_000.0, 604_800.0, 86_400.0, 3600.0, 60.0, 1.0, 0.001)
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_METRIC = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_GROUP_KEYS = frozenset({"name", "interval", "rules", "labels", "limit", "query_offset"})
_ALERT_KEYS = frozenset({"alert", "expr", "for", "keep_firing_for", "labels", "annotations"})
_RECORD_KEYS = frozenset({"record", "expr", "labels"})
_MOST_BYTES = 4 * 1024 * 1024
_SHIPPED = "rules_shipped"
_MERGE = "tag:yaml.org,2002:merge"
NO_OFFSET = Seconds(0.0)


@dataclass(frozen=True, slots=True)
class AlertRule:
    """An alerting rule. `hold` is its `for`; templates are compiled."""

    name: str
    expr: Expression
    hold: Seconds
    keep_firing_for: Seconds
    labels: Mapping[str, Template]
    annotations: Mapping[str, Template]
    file: str
    line: int


@dataclass(frozen=True, slots=True)
class RecordRule:
    """A recording rule."""

    name: str
    expr: Expression
    labels: Mapping[str, str]
    file: str
    line: int


@dataclass(frozen=True, slots=True)
class Group:
    """Rules that are judged one after another. `interval` is None where the file gives none.

    `limit` bounds what one rule may give (0: no bound); all look `query_offset` into the past.
    """

    name: str
    file: str
    interval: Seconds | None
    rules: tuple[AlertRule | RecordRule, ...]
    limit: int = 0
    query_offset: Seconds = NO_OFFSET


def shipped() -> Path:
    """The folder of the rules that come with the agent."""
    package = Path(__file__).resolve().parent.parent
    installed = package / _SHIPPED
    return installed if installed.is_dir() else package.parent / "rules"


def load_rules(patterns: Sequence[str]) -> list[Group]:
    """Read the files that `patterns` name (glob patterns; none: the shipped ones), in that order.

    Raises:
        RuleError: anything in them is wrong or not supported; the message lists every problem.
    """
    problems: list[str] = []
    groups: list[Group] = []
    files: dict[str, None] = {}
    for pattern in patterns or (str(shipped() / "*.yml"),):
        found = sorted(glob.glob(pattern, recursive=True))
        if not found:
            problems.append(f"{pattern}: no such file")
        files.update(dict.fromkeys(found))
    for file in files:
        reader = _File(file, problems)
        groups.extend(reader.read())
    if problems:
        raise RuleError(
            "rules cannot be used:\n" + "\n".join(f"  {problem}" for problem in problems),
            "correct the files; `promtool check rules FILE` checks the format",
        )
    return groups


def parse_duration(text: str) -> Seconds:
    """A duration as Prometheus writes it: `1h30m`, `500ms`, `0`.

    Raises:
        ValueError: it is none.
    """
    match = _DURATION.fullmatch(text)
    if text == "0":
        return Seconds(0.0)
    if match is None or not text:
        raise ValueError(f"not a valid duration: {text!r}")
    parts = zip(match.groups(), _UNITS, strict=True)
    return Seconds(sum(int(number) * unit for number, unit in parts if number))


@dataclass(slots=True)
class _Place:
    """Where in a file we are, for the message of a problem."""

    group: str = ""
    rule: str = ""


class _File:
    """Reads one file. Problems are gathered, and what is broken is left out of the result."""

    def __init__(self, file: str, problems: list[str]) -> None:
        self._file = file
        self._problems = problems
        self._place = _Place()

    def read(self) -> list[Group]:
        groups: list[Group] = []
        names: set[str] = set()
        for root in self._compose():
            self._place = _Place()
            fields = self._fields(root, frozenset({"groups"}), "the file")
            for node in self._items(fields.get("groups"), "groups"):
                self._place = _Place()
                group = self._group(node)
                if group.name in names:
                    self._wrong(node, f"group name {group.name!r} is repeated in the same file")
                names.add(group.name)
                groups.append(group)
        return groups

    def _compose(self) -> list[yaml.Node]:
        """The file's documents: one, or several parted by `---`."""
        try:
            data = Path(self._file).read_bytes()
            if len(data) > _MOST_BYTES:
                raise ValueError(f"larger than {_MOST_BYTES} bytes")
            return [
                root
                for root in yaml.compose_all(data.decode(), Loader=yaml.SafeLoader)
                if not _null(root)
            ]
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            where = f":{mark.line + 1}" if mark else ""
            self._problems.append(f"{self._file}{where}: not YAML: {error.problem}")
        except (OSError, ValueError, yaml.YAMLError) as error:
            self._problems.append(f"{self._file}: cannot be read: {error}")
        return []

    def _group(self, node: yaml.Node) -> Group:
        fields = self._fields(node, _GROUP_KEYS, "a group")
        name = self._text(fields.get("name"))
        self._place.group = name
        if not name:
            self._wrong(node, "a group has no name")
        interval = self._duration(fields.get("interval"))
        limit = self._limit(fields.get("limit"))
        query_offset = self._duration(fields.get("query_offset")) or NO_OFFSET
        labels = self._labels(fields.get("labels"))
        rules: list[AlertRule | RecordRule] = []
        for item in self._items(fields.get("rules"), "rules"):
            self._place.rule = ""
            made = self._rule(item, labels)
            if made is None:
                continue
            rules.append(made)
        self._place.rule = ""
        return Group(name, self._file, interval, tuple(rules), limit, query_offset)

    def _limit(self, node: yaml.Node | None) -> int:
        text = self._text(node)
        if not text:
            return 0
        if node is not None and not text.isdecimal():
            self._wrong(node, f"limit: a whole number was expected, not {text!r}")
            return 0
        return int(text)

    def _rule(self, node: yaml.Node, inherited: Mapping[str, str]) -> AlertRule | RecordRule | None:
        fields = self._fields(node, _ALERT_KEYS | _RECORD_KEYS, "a rule")
        alert, record = self._text(fields.get("alert")), self._text(fields.get("record"))
        self._place.rule = alert or record
        if bool(alert) == bool(record):
            both = "only one" if alert else "one"
            self._wrong(node, f"{both} of 'record' and 'alert' must be set")
            return None
        allowed = _ALERT_KEYS if alert else _RECORD_KEYS
        for key, value in fields.items():
            if key not in allowed:
                self._wrong(value, f"{key!r} does not belong in a recording rule")
        expr = self._expr(fields.get("expr"), node)
        labels = {**inherited, **self._labels(fields.get("labels"))}
        line = node.start_mark.line + 1
        if record:
            if _METRIC.fullmatch(record) is None:
                self._wrong(fields["record"], f"{record!r} is not a metric name")
            return RecordRule(record, expr, labels, self._file, line) if expr else None
        hold = self._duration(fields.get("for")) or Seconds(0.0)
        keep = self._duration(fields.get("keep_firing_for")) or Seconds(0.0)
        templates = self._templates(fields.get("labels"), labels, "label")
        annotated = fields.get("annotations")
        annotations = self._templates(
            annotated, self._labels(annotated, "annotation"), "annotation"
        )
        if expr is None:
            return None
        return AlertRule(alert, expr, hold, keep, templates, annotations, self._file, line)

    def _expr(self, node: yaml.Node | None, rule: yaml.Node) -> Expression | None:
        text = self._text(node)
        if node is None or not text.strip():
            self._wrong(node or rule, "'expr' must be set")
            return None
        try:
            return promql.compile(text)
        except ExprError as error:
            where = "" if error.position is None else f" (at {_line_column(text, error.position)})"
            self._wrong(node, f"expr{where}: {error.told()}")
            return None

    def _templates(
        self, node: yaml.Node | None, texts: Mapping[str, str], what: str
    ) -> dict[str, Template]:
        made: dict[str, Template] = {}
        for name, text in texts.items():
            try:
                made[name] = Template.compile(text)
            except AlertsError as error:
                assert node is not None
                self._wrong(node, f"{what} {name}: {error.told()}")
        return made

    def _labels(self, node: yaml.Node | None, what: str = "label") -> dict[str, str]:
        found: dict[str, str] = {}
        for name, value in self._pairs(node, f"{what}s"):
            if _LABEL.fullmatch(name) is None or (what == "label" and name == "__name__"):
                self._wrong(value, f"{name!r} is not a name for a {what}")
            found[name] = self._text(value)
        return found

    def _duration(self, node: yaml.Node | None) -> Seconds | None:
        if node is None:
            return None
        try:
            return parse_duration(self._text(node))
        except ValueError as error:
            self._wrong(node, str(error))
            return None

    # YAML.

    def _fields(self, node: yaml.Node, allowed: frozenset[str], what: str) -> dict[str, yaml.Node]:
        fields: dict[str, yaml.Node] = {}
        for key, value in self._pairs(node, what):
            if key not in allowed:
                self._wrong(value, f"{key!r} is not known in {what}")
            else:
                fields[key] = value
        return fields

    def _pairs(self, node: yaml.Node | None, what: str) -> Iterator[tuple[str, yaml.Node]]:
        if node is None or _null(node):
            return
        if not isinstance(node, yaml.MappingNode):
            self._wrong(node, f"{what}: keys and values were expected")
            return
        seen: set[str] = set()
        for key, value in _merged(node):
            name = str(key.value)
            if name in seen:
                self._wrong(key, f"{name!r} is given twice")
            seen.add(name)
            yield name, value

    def _items(self, node: yaml.Node | None, what: str) -> Iterator[yaml.Node]:
        if node is None or _null(node):
            return
        if not isinstance(node, yaml.SequenceNode):
            self._wrong(node, f"{what}: a list was expected")
            return
        yield from node.value

    def _text(self, node: yaml.Node | None) -> str:
        if node is None or _null(node):
            return ""
        if not isinstance(node, yaml.ScalarNode):
            self._wrong(node, "a text was expected")
            return ""
        return str(node.value)

    def _wrong(self, node: yaml.Node, reason: str) -> None:
        place = f"{self._file}:{node.start_mark.line + 1}"
        if self._place.group:
            place += f": group {self._place.group}"
        if self._place.rule:
            place += f": {self._place.rule}"
        self._problems.append(f"{place}: {reason}")


def _merged(node: yaml.MappingNode) -> list[tuple[yaml.Node, yaml.Node]]:
    """The pairs of a mapping, those of a merge key (`<<: *anchor`) where it has none itself."""
    pairs: list[tuple[yaml.Node, yaml.Node]] = node.value
    if all(key.tag != _MERGE for key, _ in pairs):
        return pairs
    own = [(key, value) for key, value in pairs if key.tag != _MERGE]
    named = {str(key.value) for key, _ in own}
    for key, value in pairs:
        if key.tag == _MERGE:
            for base in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                if isinstance(base, yaml.MappingNode):
                    own += [pair for pair in _merged(base) if str(pair[0].value) not in named]
                    named |= {str(name.value) for name, _ in own}
    return own


def _null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"


def _line_column(text: str, position: int) -> str:
    before = text[:position]
    return f"{before.count(chr(10)) + 1}:{position - (before.rfind(chr(10)) + 1) + 1}"
