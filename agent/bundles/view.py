"""The job as the face sees it: its read model and its conditions. Looks, never changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from agent.bundles.freeze import frozen as open_window
from agent.bundles.model import State
from agent.health import Condition

if TYPE_CHECKING:
    from agent.bundles.job import BundlesJob
    from agent.bundles.rollout import Rolling


def snapshot(job: BundlesJob) -> Mapping[str, Any]:
    """Everything there is to see, JSON-able."""
    layout, now = job.tools.layout, job.tools.clock.now()
    hold, frozen = job.tools.orders.hold(now), open_window(job.config.freeze, now)
    return {
        "current": layout.live(),
        "previous": layout.version_at(layout.previous),
        "current_since": layout.live_since(),
        "root": str(layout.root),
        "channel": job.channel,
        "store": {
            "name": job.store.name if job.store else None,
            "reachable": job.store is not None and job.store_error is None,
            "last_success": job.store_asked_at,
            "error": job.store_error,
        },
        "desired": job.desired.version if job.desired else None,
        "waiting": job.waiting,
        "rollout": _rolling(job.rollouts.rolling) if job.rollouts.rolling else None,
        "history": job.history(),
        "quarantine": [item.as_dict() for item in job.tools.verdicts.quarantine],
        "versions": layout.versions(),
        "hold": hold.as_dict() if hold else None,
        "pins": list(job.tools.orders.pins),
        "frozen": frozen.told if frozen else None,
    }


def _rolling(rolling: Rolling) -> dict[str, Any]:
    bake = None
    if rolling.bake_ends_at is not None:
        looks = {item.name: item for item in rolling.looks}
        gates = []
        for gate in rolling.section.bake.gates:
            look = looks.get(gate.name)
            broken = look.breach() if look else None
            gates.append(
                {
                    "name": gate.name,
                    "expr": gate.expr,
                    "ok": look is not None and broken is None and look.error is None,
                    "value": look.value if look else None,
                    "before": look.before if look else None,
                    "samples_age": look.age if look else None,
                    "error": look.error if look else None,
                }
            )
        bake = {"ends_at": rolling.bake_ends_at, "gates": gates}
    rollout = rolling.rollout
    return {
        "version": rollout.version,
        "state": rollout.state.name,
        "step": rolling.step,
        "started_at": rollout.started_at,
        "bake": bake,
    }


def conditions(job: BundlesJob) -> list[Condition]:
    """What is right and wrong. Only a bundle that is not live keeps the trader from starting."""
    return [_live(job), _intact(job), _store(job), _last(job), _held(job), _wish(job)]


def _live(job: BundlesJob) -> Condition:
    layout = job.tools.layout
    live = layout.live()
    seen, flaw = job.flaw
    if live is not None and live != seen:  # flipped since the last look
        flaw = layout.flaw(live)
    if live is None:
        return Condition(
            "bundle-live",
            ok=False,
            reason="no bundle is live",
            remedy="publish one and let the channel ask for it, or deploy one by hand",
        )
    if flaw is not None:
        remedy = "the agent puts it right when it can; deploy a good version"
        return Condition("bundle-live", ok=False, reason=flaw, remedy=remedy)
    return Condition("bundle-live", ok=True, reason=f"{live} is live")


def _intact(job: BundlesJob) -> Condition:
    return Condition(
        "bundle-intact",
        ok=job.damaged is None,
        reason=job.damaged or "the bytes on disk are what their manifests say",
        remedy="deploy that version again: it is replaced from the store" if job.damaged else "",
        gates_ready=False,
    )


def _store(job: BundlesJob) -> Condition:
    if job.store is None:
        return Condition("bundle-store", ok=True, reason="none is configured", gates_ready=False)
    if job.store_error is not None:
        return Condition(
            "bundle-store",
            ok=False,
            reason=job.store_error,
            remedy="what is live stays live; see to the store",
            gates_ready=False,
        )
    return Condition("bundle-store", ok=True, reason="the store answers", gates_ready=False)


def _last(job: BundlesJob) -> Condition:
    for item in job.tools.history.recent():
        if item.state in (State.FAILED, State.ROLLED_BACK):
            return Condition(
                "bundle-rollout",
                ok=False,
                reason=f"{item.version} is {item.state.value}: {item.reason}",
                remedy="see `jules-agent bundle history`; mend it and publish under a new name",
                gates_ready=False,
            )
        if item.state is State.ACTIVE:
            break
    return Condition("bundle-rollout", ok=True, reason="the last one went well", gates_ready=False)


def _held(job: BundlesJob) -> Condition:
    """A hold is an order, not a fault; it turns the page amber so that nobody forgets it."""
    hold = job.tools.orders.hold(job.tools.clock.now())
    return Condition(
        "bundle-hold",
        ok=hold is None,
        reason=hold.told() if hold else "nothing is held",
        remedy="`jules-agent bundle resume` when it is over" if hold else "",
        gates_ready=False,
    )


def _wish(job: BundlesJob) -> Condition:
    """Whether what is live is what the channel asks for, and why not."""
    live = job.tools.layout.live()
    if job.desired is None or job.desired.version == live or job.rollouts.rolling is not None:
        return Condition(
            "bundle-desired", ok=True, reason="the channel has its wish", gates_ready=False
        )
    return Condition(
        "bundle-desired",
        ok=False,
        reason=f"the channel asks for {job.desired.version}; {job.waiting or 'it is tried again'}",
        remedy="deploy it by hand, or let the channel ask for another",
        gates_ready=False,
    )
