"""The long-running part: look at the store, at the links, and roll out what is wanted.

It looks when the store's watch calls, and by a slow jittered poll besides. The channel may move
while a rollout runs: then its publisher no longer wants that version. Before the flip it is
abandoned; after it, still baking and unproven, it is put back as superseded (without a ban), and
the new wish is rolled out from the last good version. What a rollout falls back to is therefore
always a version that was proven. What was refused or rolled back is banned until its digest changes
or a person deploys it; what a person deploys or goes back to stays until the channel asks for
something new. At a start `current` is the truth, and so it is when somebody else moves it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from agent.audit import AuditLog
from agent.bundles.desired import why_not
from agent.bundles.errors import BundleError, GateError
from agent.bundles.flip import reconcile
from agent.bundles.history import RECENT, History
from agent.bundles.keeping import Keeping
from agent.bundles.layout import Layout
from agent.bundles.model import Desired
from agent.bundles.orders import Orders
from agent.bundles.progress import CHANNEL_ACTOR, Tools, damaged
from agent.bundles.rollouts import Rollouts, digest_here, stored_digest
from agent.bundles.stores.base import Store, Watch
from agent.bundles.stores.make import make_store
from agent.bundles.threads import in_thread
from agent.bundles.trust import Trust
from agent.bundles.verdicts import Verdicts
from agent.bundles.view import conditions, snapshot
from agent.clock import Clock
from agent.configpod import Bundles
from agent.errors import AgentError, UsageError
from agent.gates import MetricGate, RolloutTold, SecretGate
from agent.health import Condition
from agent.state import StateDB
from agent.telemetry.logs import get_logger
from agent.telemetry.metrics import Recorder
from agent.units import Seconds, UnixTime, Version

_log = get_logger(__name__)

_COALESCE = Seconds(0.005)
_NO_STORE_POLL = Seconds(30.0)


class BundlesJob:
    """Job `bundles`."""

    name = "bundles"

    def __init__(
        self,
        config: Bundles,
        *,
        channel: str,
        manifest_required: bool,
        production: bool = False,
        db: StateDB,
        audit: AuditLog,
        recorder: Recorder,
        clock: Clock,
        secret_gate: SecretGate | None,
        metric_gate: MetricGate | None,
        told: RolloutTold | None = None,
        roll: Callable[[], float] = random.random,
    ) -> None:
        """Nothing is touched on disk but the state; raises AgentError as `prepare` does."""
        self.config = config
        self.channel = channel
        state = Path(db.path).parent
        self._trust = partial(Trust, folder=state, channel=channel, production=production)
        self.tools = Tools(
            Layout(config.root),
            History(db, audit, recorder, clock),
            Verdicts(state),
            Orders(state),
            recorder,
            clock,
            secret_gate,
            metric_gate,
            last_flip=clock.monotonic(),
            told=told,
            trust=self._trust(config.trust),
        )
        self._check_gates(config)
        self._wake = asyncio.Event()
        self.rollouts = Rollouts(
            self.tools,
            config,
            manifest_required=manifest_required,
            ended=self._wake.set,
            roll=roll,
        )
        self.keeping = Keeping(self.rollouts, audit)
        self.tools.reclaimable = lambda: self.keeping.reclaimable(self.desired)
        self.store = make_store(config)
        self.desired: Desired | None = None
        self.store_error: str | None = "not asked yet" if self.store else None
        self.store_asked_at: UnixTime | None = None
        self.waiting: str | None = None
        self.flaw: tuple[Version | None, str | None] = (None, "not looked at yet")
        self._manifest_required = manifest_required
        self._audit = audit
        self._roll = roll
        self._retry = Seconds(0.0)
        self._told_live: Version | None = None
        self.damaged: str | None = None
        self._watch: Watch | None = None
        self._watched: Store | None = None

    # -- running ------------------------------------------------------------------------------

    async def run(self) -> None:
        """Reconcile, then look and roll out until cancelled."""
        loop = asyncio.get_running_loop()

        def changed() -> None:
            with suppress(RuntimeError):  # the loop may be closed already
                loop.call_soon_threadsafe(self._wake.set)

        try:
            await self._start()
            while True:
                await self._keep_watch(changed)
                self._wake.clear()
                await self._look()
                await self.keeping.collect_quietly(self.desired)  # a flip has not waited for it
                await self._wait()
        finally:
            await self._stop()

    async def drain(self) -> None:
        """What is before its flip was abandoned when `run` was cancelled; a bake stays to be
        resumed. Nothing else is pending: every transition is on disk already."""
        await self._stop()

    async def _stop(self) -> None:
        watch, self._watch, self._watched = self._watch, None, None
        try:
            await self.rollouts.stop()
        finally:
            if watch is not None:
                await in_thread(watch.close)

    async def _keep_watch(self, changed: Callable[[], None]) -> None:
        store = self.store
        if self._watched is store:
            return
        watch, self._watch, self._watched = self._watch, None, None
        if watch is not None:
            await in_thread(watch.close)
        if store is None:
            return
        try:
            self._watch = await in_thread(lambda: store.watch(changed))
            self._watched = store
        except (AgentError, OSError) as error:
            _log.warning("the store cannot be watched; it is polled", error=str(error))

    async def _wait(self) -> None:
        """Until the watch calls or the poll is due; calls that come together count once."""
        poll = self.config.store.poll if self.config.store else _NO_STORE_POLL
        due = poll * (0.8 + 0.4 * self._roll())
        if self._retry:
            due = min(due, self._retry)
        waits = (
            asyncio.ensure_future(self._wake.wait()),
            asyncio.ensure_future(self.tools.clock.sleep(Seconds(due))),
        )
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        if self._wake.is_set():
            await asyncio.sleep(_COALESCE)

    async def _start(self) -> None:
        tools = self.tools
        await self._repair()
        await self.rollouts.pick_up()
        live = tools.layout.live()
        if live is not None and self.rollouts.rolling is None:
            good = await in_thread(tools.history.good)
            if not good or good[0] != live:
                await self._found(live, "agent", "found live at the start")
        self.rollouts.settled = tools.layout.live()
        await in_thread(self._look_at_live)

    async def _repair(self) -> None:
        tools = self.tools
        adopt = not self._manifest_required

        def put_right() -> None:
            tools.layout.prepare()
            with tools.layout.lock(f"a change of {tools.layout.root}"):
                repaired = reconcile(tools.layout, tools.good(), adopt=adopt)
            for what in repaired:
                _log.warning("the deployment root was put right", what=what)
                told = {"what": what}
                root = str(tools.layout.root)
                self._audit.append("agent", "bundle.reconcile", root, "repaired", told)

        await in_thread(put_right)

    # -- looking ------------------------------------------------------------------------------

    async def _look(self) -> None:
        """One look at links and store; begins a rollout where one is wanted."""
        await self._look_at_links()
        store = self.store
        if store is None:
            return
        try:
            self.desired = await in_thread(lambda: store.desired(self.channel))
        except (BundleError, OSError) as error:
            self._store_failed(error)
            return
        now = self.tools.clock.now()
        self.store_error, self.store_asked_at = None, now
        self.tools.recorder.inc("bundle_store_checks_total", outcome="answered")
        self.tools.recorder.set("bundle_store_last_success_timestamp_seconds", now)
        await self._follow(store)

    def _store_failed(self, error: BundleError | OSError) -> None:
        told = str(error)
        if told != self.store_error:
            _log.warning("the bundle store does not answer", error=told)
        self.store_error = told
        self.tools.recorder.inc("bundle_store_checks_total", outcome="failed")

    async def _look_at_links(self) -> None:
        """Notice what others did to `current`: a good version is taken note of and stays; a link
        that leads nowhere is put right."""
        rollouts, tools = self.rollouts, self.tools
        if rollouts.rolling is None:
            live = tools.layout.live()
            if await in_thread(lambda: self._broken(live)):
                await self._repair()
                live = tools.layout.live()
            if live is not None and live != rollouts.settled:
                await self._found(live, "outside", "current was moved by somebody else")
                await in_thread(lambda: tools.verdicts.override(self.desired))
            rollouts.settled = live
            await rollouts.pick_up()
        await in_thread(self._look_at_live)

    def _broken(self, live: Version | None) -> bool:
        tools = self.tools
        return bool(tools.good()) if live is None else tools.layout.flaw(live) is not None

    async def _found(self, live: Version, actor: str, reason: str) -> None:
        tools = self.tools
        digest = await in_thread(lambda: digest_here(tools.layout, live))
        await in_thread(lambda: tools.history.found(live, actor, reason, digest))
        _log.info("a version is live that was not rolled out here", version=live, why=reason)

    def _look_at_live(self) -> None:
        """Refresh what conditions and metrics say of the live version."""
        tools = self.tools
        before, self.damaged = self.damaged, damaged(tools)
        if self.damaged and self.damaged != before:
            _log.error("a bundle on disk is damaged", why=self.damaged)
        live = tools.layout.live()
        self.flaw = (live, tools.layout.flaw(live) if live else None)
        if self._told_live is not None and self._told_live != live:
            tools.recorder.forget("bundle_info", version=self._told_live)
        self._told_live = live
        if live is not None:
            tools.recorder.set("bundle_info", 1.0, version=live)
            since = tools.layout.live_since()
            tools.recorder.set("bundle_live_since_timestamp_seconds", since or 0.0)

    async def _follow(self, store: Store) -> None:
        desired, tools, rollouts = self.desired, self.tools, self.rollouts
        self._retry = Seconds(0.0)
        if rollouts.rolling is not None:
            rollouts.supersede(desired)
            return
        digest = desired.digest if desired else None
        if desired is not None and digest is None:
            try:
                digest = await in_thread(lambda: stored_digest(store, desired.version))
            except (BundleError, OSError) as error:
                self._store_failed(error)
                return
        live = tools.layout.live()
        self.waiting = why_not(
            desired,
            live=live,
            live_digest=await in_thread(lambda: digest_here(tools.layout, live)),
            digest=digest,
            verdicts=tools.verdicts,
        )
        if desired is None or self.waiting is not None:
            return
        self.waiting = rollouts.stopped()
        if self.waiting is not None:
            return
        self._retry = rollouts.wait_for(desired)
        if self._retry:
            self.waiting = "it failed, and is tried again"
            return
        await in_thread(tools.verdicts.follow)
        with suppress(GateError):  # a person was faster
            await rollouts.begin(
                desired.version,
                store,
                digest,
                desired,
                actor=CHANNEL_ACTOR,
                force=False,
                why=f"channel {self.channel}",
            )

    def look_soon(self) -> None:
        """Look at store and links without waiting for the poll."""
        self._wake.set()

    # -- what the others ask --------------------------------------------------------------------

    async def deploy(
        self,
        version: str,
        *,
        source: Path | None,
        actor: str,
        force: bool,
        hotfix: str | None = None,
    ) -> Mapping[str, Any]:
        """Roll out `version` and wait for its end; see `Rollouts.deploy`."""
        return await self.rollouts.deploy(
            version,
            store=self.store,
            source=source,
            desired=self.desired,
            actor=actor,
            force=force,
            hotfix=hotfix,
        )

    async def rollback(self, version: str | None, *, actor: str, reason: str) -> Mapping[str, Any]:
        """Flip back and wait until it is done; see `Rollouts.rollback`."""
        return await self.rollouts.rollback(
            version, desired=self.desired, actor=actor, reason=reason
        )

    def history(self, limit: int = RECENT) -> list[dict[str, Any]]:
        """The newest rollouts, newest first."""
        return [item.as_dict() for item in self.tools.history.recent(limit)]

    def conditions(self) -> Sequence[Condition]:
        return conditions(self)

    def snapshot(self) -> Mapping[str, Any]:
        return snapshot(self)

    def prepare(self, section: Bundles) -> Callable[[], None]:
        """Check that `section` can be taken over; the closure takes it over. A rollout that is
        under way ends by the configuration that it began with.

        Raises:
            UsageError: the root would move.
            AgentError: a bake gate cannot be evaluated here.
        """
        if section.root != self.config.root:
            raise UsageError("bundles.root cannot change while running", "restart the agent")
        self._check_gates(section)
        store = self.store if section.store == self.config.store else make_store(section)

        def commit() -> None:
            if store is not self.store:
                self.store_error = "not asked yet" if store else None
            self.config = self.rollouts.config = section
            self.tools.trust = self._trust(section.trust)
            self.store = store
            self._wake.set()

        return commit

    def _check_gates(self, section: Bundles) -> None:
        gate = self.tools.metric_gate
        if gate is not None:
            for item in section.bake.gates:
                gate.validate(item.expr)
