"""Silences: label sets about which nobody is told for a while; kept in SQLite.

A silence has matchers, a beginning, an end, an author and a comment. It mutes the first word and
the repeats about an alert, not its resolve: an incident that was opened before is closed all the
same. An alert that fires on when its silence ends is told then. An expired silence is remembered
for a week. Times are UNIX seconds.
"""

from __future__ import annotations

import json
import re
import secrets
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from agent.alerts.matchers import Matchers, match, parse_all
from agent.clock import Clock
from agent.configtypes import parse_duration
from agent.errors import AgentError, UsageError
from agent.state import StateDB
from agent.units import Seconds, UnixTime

KEPT_FOR = Seconds(7 * 86400.0)
MOST = 1000
_TEXT_MAX = 1000
_ID = re.compile(r"[0-9a-f]{4,16}")

_STEPS = (
    "CREATE TABLE alert_silences (id TEXT PRIMARY KEY, matchers TEXT NOT NULL,"
    " starts_at REAL NOT NULL, ends_at REAL NOT NULL, author TEXT NOT NULL,"
    " comment TEXT NOT NULL, created_at REAL NOT NULL) WITHOUT ROWID",
)


@dataclass(frozen=True, slots=True)
class Silence:
    """One silence. In force from `starts_at` until before `ends_at`."""

    id: str
    matchers: Matchers
    starts_at: UnixTime
    ends_at: UnixTime
    author: str
    comment: str
    created_at: UnixTime

    def state(self, at: UnixTime) -> str:
        """`pending`, `active` or `expired`."""
        if at >= self.ends_at:
            return "expired"
        return "active" if at >= self.starts_at else "pending"

    def as_dict(self, at: UnixTime) -> dict[str, Any]:
        """JSON-able."""
        return {
            "id": self.id,
            "state": self.state(at),
            "matchers": [str(matcher) for matcher in self.matchers],
            "starts_at": self.starts_at,
            "ends_at": self.ends_at,
            "by": self.author,
            "comment": self.comment,
            "created_at": self.created_at,
        }


class Silences:
    """All silences. Used on the loop; a change is durable when the call returns."""

    def __init__(self, db: StateDB, clock: Clock) -> None:
        self._db = db
        self._clock = clock
        db.migrate("alert_silences", _STEPS)
        self._all = {silence.id: silence for silence in self._load()}

    def _load(self) -> list[Silence]:
        return [
            Silence(
                row["id"],
                parse_all(json.loads(row["matchers"])),
                row["starts_at"],
                row["ends_at"],
                row["author"],
                row["comment"],
                row["created_at"],
            )
            for row in self._db.query("SELECT * FROM alert_silences")
        ]

    def add(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Begin a silence, or plan one; returns it.

        `arguments`: `matchers` (a text or a list of texts), `duration` or `ends_at`, and, where
        wanted, `starts_at`, `by`, `comment`.

        Raises:
            UsageError: something of it is missing or cannot be.
        """
        now = self._clock.now()
        told = arguments.get("matchers")
        texts = [told] if isinstance(told, str) else told
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise UsageError("a silence needs matchers", 'send {"matchers": ["alertname=\\"X\\""]}')
        matchers = parse_all(texts)
        if all(matcher.matches({}) for matcher in matchers):
            raise UsageError(
                "a silence whose matchers all match nothing would mute every alert",
                'name what is muted; for all of it write alertname=~".+"',
            )
        starts = _moment(arguments, "starts_at", now)
        if arguments.get("duration") is not None:
            ends = UnixTime(starts + _duration(arguments["duration"]))
        else:
            ends = _moment(arguments, "ends_at", None)
        if ends <= max(starts, now):
            raise UsageError("the silence would be over before it begins", "name a later end")
        if len(self._all) >= MOST:
            self.forget_old()
        if len(self._all) >= MOST:
            raise UsageError(f"there are {MOST} silences", "let some expire")
        made = Silence(
            secrets.token_hex(4),
            matchers,
            starts,
            ends,
            str(arguments.get("by") or "operator")[:_TEXT_MAX],
            str(arguments.get("comment") or "")[:_TEXT_MAX],
            now,
        )
        self._keep(made)
        return made.as_dict(now)

    def expire(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """End silence `id` (or its unambiguous beginning) now; returns it.

        Raises:
            UsageError: there is none, or it is over.
        """
        now = self._clock.now()
        told = str(arguments.get("id") or "")
        found = [s for s in self._all.values() if _ID.fullmatch(told) and s.id.startswith(told)]
        if len(found) != 1:
            raise UsageError(
                f"no silence is called {told!r}", "see `jules-agent alerts silence list`"
            )
        silence = found[0]
        if silence.state(now) == "expired":
            raise UsageError(f"silence {silence.id} is over already")
        ended = replace(silence, starts_at=min(silence.starts_at, now), ends_at=now)
        self._keep(ended)
        return ended.as_dict(now)

    def list(self, arguments: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Those in force and planned, by their end; with `expired` also what is over."""
        now = self._clock.now()
        with_expired = bool((arguments or {}).get("expired"))
        shown = [s for s in self._all.values() if with_expired or s.state(now) != "expired"]
        shown.sort(key=lambda silence: (silence.ends_at, silence.id))
        return {"silences": [silence.as_dict(now) for silence in shown]}

    def muting(self, labels: Mapping[str, str], at: UnixTime) -> Silence | None:
        """The silence in force that the label set meets."""
        for silence in self._all.values():
            if silence.starts_at <= at < silence.ends_at and match(silence.matchers, labels):
                return silence
        return None

    def forget_old(self) -> None:
        """Forget what is over since a week."""
        before = UnixTime(self._clock.now() - KEPT_FOR)
        gone = [silence.id for silence in self._all.values() if silence.ends_at < before]
        if gone:
            with self._db.transaction() as cursor:
                cursor.executemany("DELETE FROM alert_silences WHERE id = ?", [(i,) for i in gone])
            for name in gone:
                del self._all[name]

    def _keep(self, silence: Silence) -> None:
        row = (
            silence.id,
            json.dumps([str(matcher) for matcher in silence.matchers]),
            silence.starts_at,
            silence.ends_at,
            silence.author,
            silence.comment,
            silence.created_at,
        )
        try:
            with self._db.transaction() as cursor:
                cursor.execute("INSERT OR REPLACE INTO alert_silences VALUES (?,?,?,?,?,?,?)", row)
        except sqlite3.Error as error:
            raise AgentError(
                f"the silence cannot be kept, and is not in force: {error}",
                "free space on the state folder's volume",
            ) from None
        self._all[silence.id] = silence


def _duration(told: object) -> float:
    try:
        seconds = parse_duration(told)
    except ValueError as error:
        raise UsageError(f"duration: {error}", "write 30m or 2h") from None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < 1e10:
        raise UsageError("duration is no positive duration", "write 30m or 2h")
    return float(seconds)


def _moment(arguments: Mapping[str, Any], name: str, default: UnixTime | None) -> UnixTime:
    told = arguments.get(name, default)
    if isinstance(told, bool) or not isinstance(told, int | float) or not 0 < told < 1e11:
        raise UsageError(f"{name} is no moment in UNIX seconds", "or name a `duration`")
    return UnixTime(float(told))
