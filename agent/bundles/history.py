"""Every rollout that there was: the one place where a state changes, and where it is written down.

A transition is in SQLite and in the audit chain before it is acted on. Towards safety (`FAILED`,
`ROLLED_BACK`) a record that cannot be written is logged and does not stop the way back: a full disk
must not keep a bad version live. The newest rollouts are kept in memory for the face.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections import deque
from typing import Any

from agent.audit import AuditError, AuditLog
from agent.bundles.errors import RolloutError
from agent.bundles.model import TRANSITIONS, Rollout, State, Step
from agent.clock import Clock
from agent.state import StateDB
from agent.telemetry.logs import get_logger
from agent.telemetry.metrics import Recorder
from agent.units import Digest, UnixTime, Version

_log = get_logger(__name__)

RECENT = 20
_STEPS = (
    """
    CREATE TABLE bundle_rollouts (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        version TEXT NOT NULL,
        state TEXT NOT NULL,
        from_version TEXT,
        actor TEXT NOT NULL,
        started_at REAL NOT NULL,
        ended_at REAL,
        reason TEXT,
        steps TEXT NOT NULL DEFAULT '[]',
        digest TEXT
    )
    """,
    "CREATE INDEX bundle_rollouts_by_version ON bundle_rollouts (version, id)",
    "ALTER TABLE bundle_rollouts ADD COLUMN why TEXT",
)
_SAFE = frozenset({State.FAILED, State.ROLLED_BACK})
_ENDED = frozenset({State.ACTIVE, State.FAILED, State.ROLLED_BACK})
_CHANGE = """
    UPDATE bundle_rollouts
    SET state = ?, from_version = ?, ended_at = ?, reason = ?, steps = ?, digest = ?
    WHERE id = ?
"""


class History:
    """The table `bundle_rollouts`. Blocking, safe from any thread."""

    def __init__(self, db: StateDB, audit: AuditLog, recorder: Recorder, clock: Clock) -> None:
        self._db = db
        self._audit = audit
        self._recorder = recorder
        self._clock = clock
        self._lock = threading.RLock()
        db.migrate("bundles", _STEPS)
        self._recent = deque(self._select("ORDER BY id DESC LIMIT ?", RECENT), maxlen=RECENT)

    # -- writing ------------------------------------------------------------------------------

    def begin(
        self,
        version: Version,
        from_version: Version | None,
        actor: str,
        why: str | None = None,
    ) -> Rollout:
        """A new rollout, PENDING; `why` it was asked for.

        Raises:
            RolloutError: it cannot be written down, so it must not begin.
        """
        return self._insert(version, State.PENDING, from_version, actor, None, None, why)

    def found(self, version: Version, actor: str, reason: str, digest: Digest | None) -> Rollout:
        """A version that is live though no rollout of ours put it there: noted as ACTIVE."""
        return self._insert(version, State.ACTIVE, None, actor, reason, digest)

    def transition(self, rollout: Rollout, state: State, reason: str | None = None) -> None:
        """Change the state: durable, then in `rollout`; raises as `announce`."""
        self.announce(rollout, state, reason)
        self.apply(rollout, state, reason)

    def announce(self, rollout: Rollout, state: State, reason: str | None = None) -> None:
        """Write down that the state changes, before it is acted on. `apply` follows.

        Raises:
            RolloutError: there is no such transition, or it cannot be written down.
        """
        if state not in TRANSITIONS[rollout.state]:
            raise RolloutError(f"a rollout cannot go from {rollout.state.name} to {state.name}")
        ended = self._clock.now() if state in _ENDED else rollout.ended_at
        detail: dict[str, Any] = {"rollout": rollout.id, "from_version": rollout.from_version}
        if rollout.digest:
            detail["digest"] = rollout.digest
        if reason:
            detail["reason"] = reason
        try:
            self._store(rollout, state, ended, reason or rollout.reason)
            self._audit.append(
                rollout.actor, "bundle.transition", rollout.version, state.value, detail
            )
        except (sqlite3.Error, AuditError) as error:
            if state not in _SAFE:
                raise RolloutError(
                    f"the rollout of {rollout.version} cannot be written down: {error}",
                    "free space on the state folder's volume",
                ) from error
            _log.error("a transition was not written down", state=state.name, error=str(error))

    def apply(self, rollout: Rollout, state: State, reason: str | None = None) -> None:
        """Show the state that `announce` wrote down: what it stands for has been done."""
        rollout.reason = reason or rollout.reason
        rollout.state = state
        if state in _ENDED:
            rollout.ended_at = self._clock.now()
            self._recorder.inc("bundle_rollouts_total", outcome=state.value)
        self.save(rollout)
        _log.info(
            "rollout",
            version=rollout.version,
            state=state.name,
            from_version=rollout.from_version,
            actor=rollout.actor,
            reason=reason,
        )

    def save(self, rollout: Rollout) -> None:
        """Write down steps and digest. What cannot be written is logged: it is detail."""
        try:
            self._store(rollout, rollout.state, rollout.ended_at, rollout.reason)
        except sqlite3.Error as error:
            _log.error("steps were not written down", version=rollout.version, error=str(error))

    def insist(self, rollout: Rollout) -> None:
        """`save`, for what must be on disk before it is acted on.

        Raises:
            RolloutError: it cannot be written down.
        """
        try:
            self._store(rollout, rollout.state, rollout.ended_at, rollout.reason)
        except sqlite3.Error as error:
            raise RolloutError(
                f"the rollout of {rollout.version} cannot be written down: {error}",
                "free space on the state folder's volume",
            ) from error

    # -- reading ------------------------------------------------------------------------------

    def recent(self, limit: int = RECENT) -> list[Rollout]:
        """The newest rollouts, newest first; from memory up to `RECENT`."""
        if limit <= RECENT:
            with self._lock:
                return list(self._recent)[: max(0, limit)]
        known = {item.id: item for item in self.recent()}
        return [
            known.get(item.id, item) for item in self._select("ORDER BY id DESC LIMIT ?", limit)
        ]

    def unfinished(self) -> list[Rollout]:
        """What a crash or a stop interrupted, oldest first."""
        return [item for item in reversed(self.recent()) if item.state not in _ENDED]

    def newest(self, version: Version) -> Rollout | None:
        """The newest rollout of `version`."""
        for item in self.recent():
            if item.version == version:
                return item
        found = self._select("WHERE version = ? ORDER BY id DESC LIMIT 1", version)
        return found[0] if found else None

    def good(self) -> list[Version]:
        """Versions whose newest rollout ended ACTIVE, newest first."""
        rows = self._db.query(
            "SELECT version, state FROM bundle_rollouts WHERE id IN "
            "(SELECT max(id) FROM bundle_rollouts WHERE state IN ('ACTIVE', 'ROLLED_BACK') "
            "GROUP BY version) ORDER BY id DESC"
        )
        return [Version(row["version"]) for row in rows if row["state"] == State.ACTIVE.name]

    def used(self) -> dict[Version, UnixTime]:
        """When each version was last the subject of a rollout."""
        rows = self._db.query(
            "SELECT version, max(coalesce(ended_at, started_at)) AS at FROM bundle_rollouts "
            "GROUP BY version"
        )
        return {Version(row["version"]): UnixTime(row["at"]) for row in rows}

    # -- rows ---------------------------------------------------------------------------------

    def _insert(
        self,
        version: Version,
        state: State,
        from_version: Version | None,
        actor: str,
        reason: str | None,
        digest: Digest | None,
        why: str | None = None,
    ) -> Rollout:
        now = self._clock.now()
        ended = now if state in _ENDED else None
        values = (version, state.name, from_version, actor, now, ended, reason, digest, why)
        try:
            with self._db.transaction() as cursor:
                cursor.execute(
                    "INSERT INTO bundle_rollouts (version, state, from_version, actor, "
                    "started_at, ended_at, reason, digest, why) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    values,
                )
                number = cursor.lastrowid
            detail: dict[str, Any] = {"rollout": number, "from_version": from_version}
            if reason:
                detail["reason"] = reason
            if why:
                detail["why"] = why
            self._audit.append(actor, "bundle.transition", version, state.value, detail)
        except (sqlite3.Error, AuditError) as error:
            raise RolloutError(
                f"a rollout of {version} cannot be written down: {error}",
                "free space on the state folder's volume",
            ) from error
        assert number is not None
        rollout = Rollout(
            number, version, state, from_version, actor, now, ended, reason, digest=digest, why=why
        )
        with self._lock:
            self._recent.appendleft(rollout)
        return rollout

    def _store(
        self, rollout: Rollout, state: State, ended: UnixTime | None, reason: str | None
    ) -> None:
        steps = json.dumps([step.as_dict() for step in rollout.steps])
        values = (
            state.name,
            rollout.from_version,
            ended,
            reason,
            steps,
            rollout.digest,
            rollout.id,
        )
        with self._db.transaction() as cursor:
            cursor.execute(_CHANGE, values)

    def _select(self, tail: str, *parameters: Any) -> list[Rollout]:
        rows = self._db.query(f"SELECT * FROM bundle_rollouts {tail}", parameters)  # noqa: S608
        return [_rollout(row) for row in rows]


def _rollout(row: sqlite3.Row) -> Rollout:
    steps = [
        Step(
            item["step"],
            item["seconds"],
            item["outcome"],
            item["detail"],
            item.get("values", []),
        )
        for item in json.loads(row["steps"])
    ]
    return Rollout(
        id=row["id"],
        version=row["version"],
        state=State[row["state"]],
        from_version=row["from_version"],
        actor=row["actor"],
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        reason=row["reason"],
        steps=steps,
        digest=row["digest"],
        why=row["why"],
    )
