"""A person's standing orders carried out, and old versions collected: hold, resume, pin, gc.

Each order is in the audit chain before it counts. Collection and rollouts exclude one another: it
begins only while nothing rolls, and holds what a rollout needs to begin while folders are renamed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent.audit import AuditLog
from agent.bundles.manifest import check_version
from agent.bundles.model import Desired
from agent.bundles.orders import Hold
from agent.bundles.retention import (
    Facts,
    Taken,
    delete,
    freed,
    leased,
    plan,
    staged_at,
    take_away,
)
from agent.bundles.rollouts import Rollouts
from agent.bundles.threads import in_thread
from agent.errors import AgentError, UsageError
from agent.telemetry.logs import get_logger
from agent.units import Bytes, UnixTime, Version

_log = get_logger(__name__)


class Keeping:
    """The verbs; also called by the job whenever nothing rolls."""

    def __init__(self, rollouts: Rollouts, audit: AuditLog) -> None:
        self._rollouts = rollouts
        self._audit = audit
        self._seen: tuple[Version, ...] = ()

    # -- orders -------------------------------------------------------------------------------

    async def hold(self, *, reason: str, until: UnixTime | None, actor: str) -> dict[str, Any]:
        """Keep what is live until `resume`, or until the time given.

        Raises:
            UsageError: the time is over already.
            AgentError: it cannot be written down.
        """
        tools = self._rollouts.tools
        now = tools.clock.now()
        if until is not None and until <= now:
            raise UsageError("the hold would be over already", "give a time to come")
        order = Hold(reason, actor, now, until)
        live = tools.layout.live() or "nothing"

        def place() -> None:
            self._audit.append(actor, "bundle.hold", live, "placed", order.as_dict())
            tools.orders.place(order)

        await in_thread(place)
        _log.warning("what is live is held", version=live, reason=reason, until=until)
        return {"hold": order.as_dict(), "current": tools.layout.live()}

    async def resume(self, *, actor: str) -> dict[str, Any]:
        """End the hold; the channel is followed again.

        Raises:
            UsageError: nothing is held.
            AgentError: it cannot be written down, so the hold stays.
        """
        tools = self._rollouts.tools
        if tools.orders.hold(tools.clock.now()) is None:
            raise UsageError("nothing is held", "see `jules-agent bundle hold`")

        def end() -> Hold | None:
            self._audit.append(actor, "bundle.hold", tools.layout.live() or "nothing", "ended")
            return tools.orders.resume()

        ended = await in_thread(end)
        _log.info("the hold is over", by=actor)
        return {"ended": ended.as_dict() if ended else None}

    async def pin(self, version: str, *, pinned: bool, actor: str) -> dict[str, Any]:
        """Keep a version on disk whatever is collected, or no longer.

        Raises:
            RejectedError: no version name, or nothing complete here under it.
            AgentError: it cannot be written down.
        """
        tools, wanted = self._rollouts.tools, check_version(version)
        if pinned:
            tools.layout.require(wanted)

        def note() -> None:
            self._audit.append(actor, "bundle.pin", wanted, "pinned" if pinned else "unpinned")
            tools.orders.pin(wanted, pinned=pinned)

        await in_thread(note)
        return {"pins": list(tools.orders.pins)}

    # -- collection ---------------------------------------------------------------------------

    async def collect(self, *, dry_run: bool, wanted: Desired | None) -> dict[str, Any]:
        """Remove what retention no longer keeps; with `dry_run`, only tell what that is.

        Raises:
            GateError: a rollout is under way.
            AgentError: this file system refused.
        """
        rollouts, tools = self._rollouts, self._rollouts.tools
        if dry_run:
            return await in_thread(lambda: self._told(wanted))

        def take() -> list[Taken]:
            taken = []
            with tools.layout.lock(f"a change of {tools.layout.root}"):
                for version in self._plan(wanted):
                    one = take_away(tools.layout, version)
                    if one is not None:
                        taken.append(one)
            return taken

        taken = await rollouts.alone("a collection", take)
        for one in taken:
            await in_thread(lambda one=one: delete(one))  # type: ignore[misc]
            tools.recorder.inc("bundle_collected_total")
            _log.info("a version was collected", version=one.version, bytes=one.size)
        if taken:
            names = ", ".join(one.version for one in taken)
            told = {"bytes": sum(one.size for one in taken)}
            await in_thread(
                lambda: self._audit.append("agent", "bundle.gc", names, "removed", told)
            )
        return {
            "removed": [{"version": one.version, "bytes": one.size} for one in taken],
            "bytes": sum(one.size for one in taken),
        }

    async def collect_quietly(self, wanted: Desired | None) -> None:
        """Collect when the versions here are others than at the last time."""
        versions = tuple(self._rollouts.tools.layout.versions())
        if self._rollouts.rolling is not None or versions == self._seen:
            return
        try:
            await self.collect(dry_run=False, wanted=wanted)
        except (AgentError, OSError) as error:
            _log.warning("old versions were not collected", why=str(error))
        self._seen = ()  # leases end and hours pass without any change that could be seen
        if not await in_thread(lambda: self._plan(wanted, hours=False)):
            self._seen = tuple(self._rollouts.tools.layout.versions())

    def reclaimable(self, wanted: Desired | None) -> Bytes:
        """What a collection would give back now."""
        layout = self._rollouts.tools.layout
        return Bytes(sum(freed(layout, version) for version in self._plan(wanted)))

    def _told(self, wanted: Desired | None) -> dict[str, Any]:
        layout = self._rollouts.tools.layout
        listed: list[Mapping[str, Any]] = [
            {
                "version": version,
                "bytes": freed(layout, version),
                "leased": leased(layout, version),
            }
            for version in self._plan(wanted)
        ]
        free = sum(item["bytes"] for item in listed if not item["leased"])
        return {"would_remove": listed, "bytes": free}

    def _plan(self, wanted: Desired | None, *, hours: bool = True) -> list[Version]:
        tools, rules = self._rollouts.tools, self._rollouts.config.retention
        if not hours:
            rules = rules.model_copy(update={"hours": 0.0, "evidence_hours": 0.0})
        layout = tools.layout
        versions = layout.versions()
        rolling = self._rollouts.rolling
        named = (
            layout.live(),
            layout.version_at(layout.previous),
            wanted.version if wanted else None,
            *tools.orders.pins,
            *((rolling.rollout.version, rolling.rollout.from_version) if rolling else ()),
        )
        used = staged_at(layout, versions)
        for version, at in tools.history.used().items():
            used[version] = max(at, used.get(version, at))
        facts = Facts(
            versions,
            used,
            good=set(tools.good()),
            quarantined={item.version for item in tools.verdicts.quarantine},
            protected={version for version in named if version is not None},
        )
        return plan(rules, facts, tools.clock.now())
