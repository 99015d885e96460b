"""The changing verbs, as they come over the admin socket: arguments checked, work handed on.

What is sent is JSON from the CLI, or from whoever may open the socket: nothing in it is trusted to
be of the right type.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.errors import UsageError
from agent.units import UnixTime

if TYPE_CHECKING:
    from agent.bundles.job import BundlesJob

_ACTOR = "operator"
_MOST_HISTORY = 10_000


async def bundle_verb(
    job: BundlesJob | None, verb: str, arguments: Mapping[str, Any]
) -> dict[str, Any]:
    """Carry out a verb of the bundles job.

    Raises:
        AgentError: the job is off, there is no such verb, its arguments are off, or the work
            failed.
    """
    if verb not in _BUNDLE_VERBS:
        raise UsageError(f"no such verb: {verb}", "see `jules-agent --help`")
    if job is None:
        raise UsageError("the bundles job is switched off", "set bundles.enabled: true")
    return await _BUNDLE_VERBS[verb](job, arguments)


async def _deploy(job: BundlesJob, arguments: Mapping[str, Any]) -> dict[str, Any]:
    version, source = _named(arguments, "deploy"), _text(arguments, "source")
    told = await job.deploy(
        version,
        source=Path(source) if source else None,
        actor=_ACTOR,
        force=bool(arguments.get("force", False)),
        hotfix=_text(arguments, "hotfix"),
    )
    return dict(told)


async def _rollback(job: BundlesJob, arguments: Mapping[str, Any]) -> dict[str, Any]:
    version = _text(arguments, "version")
    reason = _text(arguments, "reason") or "asked for by an operator"
    told = await job.rollback(version, actor=_ACTOR, reason=reason)
    return dict(told)


async def _history(job: BundlesJob, arguments: Mapping[str, Any]) -> dict[str, Any]:
    limit = arguments.get("limit", 20)
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= _MOST_HISTORY:
        raise UsageError(
            f"history's limit is no number from 1 to {_MOST_HISTORY}", 'send {"limit": 20}'
        )
    return {"history": job.history(limit)}


async def _hold(job: BundlesJob, arguments: Mapping[str, Any]) -> dict[str, Any]:
    until = arguments.get("until")
    if until is not None and (isinstance(until, bool) or not isinstance(until, int | float)):
        raise UsageError("hold's end is no time", 'send {"until": SECONDS SINCE 1970}')
    reason = _text(arguments, "reason") or "no reason was given"
    end = None if until is None else UnixTime(float(until))
    return await job.keeping.hold(reason=reason, until=end, actor=_ACTOR)


async def _resume(job: BundlesJob, _arguments: Mapping[str, Any]) -> dict[str, Any]:
    told = await job.keeping.resume(actor=_ACTOR)
    job.look_soon()
    return told


async def _pin(job: BundlesJob, arguments: Mapping[str, Any]) -> dict[str, Any]:
    return await job.keeping.pin(_named(arguments, "pin"), pinned=True, actor=_ACTOR)


async def _unpin(job: BundlesJob, arguments: Mapping[str, Any]) -> dict[str, Any]:
    return await job.keeping.pin(_named(arguments, "unpin"), pinned=False, actor=_ACTOR)


async def _gc(job: BundlesJob, arguments: Mapping[str, Any]) -> dict[str, Any]:
    dry_run = bool(arguments.get("dry_run", False))
    return await job.keeping.collect(dry_run=dry_run, wanted=job.desired)


def _text(arguments: Mapping[str, Any], name: str) -> str | None:
    value = arguments.get(name)
    if value is not None and not isinstance(value, str):
        raise UsageError(f"`{name}` is no text")
    if value is not None and "\0" in value:
        raise UsageError(f"`{name}` holds a NUL character")
    return value or None


def _named(arguments: Mapping[str, Any], verb: str) -> str:
    version = _text(arguments, "version")
    if version is None:
        raise UsageError(f"{verb} names no version", 'send {"version": "…"}')
    return version


_BUNDLE_VERBS = {
    "deploy": _deploy,
    "rollback": _rollback,
    "history": _history,
    "hold": _hold,
    "resume": _resume,
    "pin": _pin,
    "unpin": _unpin,
    "gc": _gc,
}
