"""One rollout at a time: who may begin one, what ends one, and what a restart finds of one.

- a person's deploy while one runs is refused, and says which; a rollback always goes first
- a rollback bans what it leaves, and the channel's present wish is left alone from then on
- what failed before its flip is tried again, ever more rarely
- what a crash interrupted is closed; baked anew, if it is live and something good lies behind it;
  or put back, if the way back was written down and not gone
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from agent.bundles.errors import BundleError, GateError, RolloutError
from agent.bundles.flip import choose
from agent.bundles.gates import forbidden
from agent.bundles.layout import Layout
from agent.bundles.manifest import check_version
from agent.bundles.model import Desired, Rollout, State, WayBack, digest_of
from agent.bundles.progress import Tools, words
from agent.bundles.rollout import Rolling
from agent.bundles.stores.base import Store
from agent.bundles.stores.single import SingleFolder
from agent.bundles.threads import in_thread
from agent.bundles.verdicts import key
from agent.configpod import Bundles
from agent.errors import AgentError, UsageError
from agent.telemetry.logs import get_logger
from agent.units import Digest, Monotonic, Seconds, Version

T = TypeVar("T")
_log = get_logger(__name__)

_LONGEST_RETRY = Seconds(300.0)
_RESUMED = "resumed: the wish that it came from is not known"


class Rollouts:
    """The agent's rollouts: the one in progress, and the verbs that begin and end them."""

    def __init__(
        self,
        tools: Tools,
        config: Bundles,
        *,
        manifest_required: bool,
        ended: Callable[[], None],
        roll: Callable[[], float],
    ) -> None:
        self.config = config
        self.tools = tools
        self.rolling: Rolling | None = None
        self.settled: Version | None = None
        """What is live by what this agent knows: anything else is somebody else's doing."""
        self._manifest_required = manifest_required
        self._ended = ended
        self._roll = roll
        self._beginning = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._wish = ""
        self._failed: tuple[str, int, Monotonic] = ("", 0, Monotonic(0.0))

    # -- verbs --------------------------------------------------------------------------------

    async def deploy(
        self,
        version: str,
        *,
        store: Store | None,
        source: Path | None,
        desired: Desired | None,
        actor: str,
        force: bool,
        hotfix: str | None = None,
    ) -> Mapping[str, Any]:
        """A person's deploy, from `source` or from the store; returns when it has ended.

        A person's word lifts a ban. `force` also flips over an unwell trader and over metric gates
        that are broken already. `hotfix` says why it may go live in a freeze window; it does not
        go over a hold.

        Raises:
            RejectedError: `version` is no version name.
            GateError: another rollout is under way, or what is live is held or frozen.
            UsageError: there is no store to take it from.
        """
        wanted, tools = check_version(version), self.tools
        self._refuse_second(wanted)
        if (reason := self.stopped(hotfix=hotfix is not None)) is not None:
            raise GateError(
                f"cannot move to {wanted}: {reason}",
                "`bundle resume` ends a hold; `deploy --hotfix WHY` goes through a freeze window",
            )
        if source is not None:
            store = SingleFolder(source, max_files=self.config.limits.max_files)
        if store is None:
            raise UsageError("bundles.store is not configured", "name the folder with --source")
        chosen = store
        if tools.layout.live() == wanted and source is None and not force:
            newest = await in_thread(lambda: tools.history.newest(wanted))
            if newest is not None and newest.state is State.ACTIVE:
                return newest.as_dict()

        def say_so() -> None:
            with suppress(BundleError, OSError):  # the rollout will meet the same, and tell it
                digest = stored_digest(chosen, wanted)
                if digest is not None:
                    tools.verdicts.lift(digest)
            if desired is None or desired.version != wanted:
                tools.verdicts.override(desired)
            else:
                tools.verdicts.follow()

        await in_thread(say_so)
        why = "an operator asked for it" + " by force" * force
        why = why if hotfix is None else f"hotfix: {hotfix}"
        rollout, task = await self.begin(
            wanted,
            store,
            None,
            desired,
            actor=actor,
            force=force,
            why=why,
            hotfix=hotfix is not None,
        )
        await asyncio.shield(task)
        return rollout.as_dict()

    async def rollback(
        self, version: str | None, *, desired: Desired | None, actor: str, reason: str
    ) -> Mapping[str, Any]:
        """Flip back to `version`, or to the last good one; ends a rollout that is under way.

        Asked without a version while a rollout is before its flip, it only ends that: what is live
        is the last good one already.

        Raises:
            RejectedError: `version` is no version name, or not complete here.
            RolloutError: there is nothing to go back to.
        """
        target = check_version(version) if version is not None else None
        tools = self.tools
        left = tools.layout.live()
        if target is not None:
            tools.layout.require(target)
        rolling, task = self.rolling, self._task
        if rolling is not None and task is not None:
            flipped = rolling.flipped
            target = target or (rolling.rollout.from_version if flipped else None)
            await in_thread(lambda: tools.verdicts.override(desired))
            rolling.abort(f"rolled back by {actor}: {reason}", ban=True)
            await asyncio.gather(asyncio.shield(task), return_exceptions=True)
            if not flipped and target is None:
                return rolling.rollout.as_dict()
        target = target or tools.layout.version_at(tools.layout.previous)
        if target is None:
            raise RolloutError(
                "there is no previous good version to go back to",
                "name one: `jules-agent bundle rollback VERSION`; `bundle history` lists them",
            )
        return await self._go_back(target, left if left != target else None, desired, actor, reason)

    async def _go_back(
        self,
        target: Version,
        left: Version | None,
        desired: Desired | None,
        actor: str,
        reason: str,
    ) -> Mapping[str, Any]:
        tools = self.tools

        def note() -> Rollout:
            tools.layout.require(target)
            tools.verdicts.override(desired)
            digest = digest_here(tools.layout, left)
            if left is not None and digest and tools.verdicts.why_banned(digest) is None:
                told = f"rolled back by {actor}: {reason}"
                tools.verdicts.ban(left, digest, told, tools.clock.now())
            return tools.history.begin(target, left, actor, reason)

        def close_left() -> None:
            newest = tools.history.newest(left) if left is not None else None
            if newest is not None and newest.state is State.ACTIVE:
                tools.history.transition(newest, State.ROLLED_BACK, reason)

        async def work() -> None:
            await rolling.go_back(left, reason)
            if rolling.rollout.state is State.ACTIVE:
                await in_thread(close_left)
                if tools.told is not None and left is not None:
                    tools.told.rolled_back(left, target, reason, actor)

        async with self._beginning:
            self._refuse_second(target)
            rolling = self._of(await in_thread(note))
            task = self._run(rolling, work(), key(desired))
        await asyncio.shield(task)
        return rolling.rollout.as_dict()

    async def begin(
        self,
        version: Version,
        store: Store,
        digest: Digest | None,
        desired: Desired | None,
        *,
        actor: str,
        force: bool,
        why: str,
        hotfix: bool = False,
    ) -> tuple[Rollout, asyncio.Task[None]]:
        """Begin a rollout of `version`, whose manifest must have `digest` where one is given.

        Raises:
            GateError: another one is under way.
            RolloutError: it cannot be written down.
        """
        tools = self.tools
        async with self._beginning:
            self._refuse_second(version)
            live = tools.layout.live()
            origin = tools.layout.version_at(tools.layout.previous) if live == version else live
            rollout = await in_thread(lambda: tools.history.begin(version, origin, actor, why))
            leave = desired.way_back if desired and desired.version == version else None
            rolling = self._of(rollout, hotfix=hotfix, way_back=leave)
            work = rolling.deploy(store, digest, force=force)
            return rollout, self._run(rolling, work, key(desired))

    def _refuse_second(self, version: Version) -> None:
        if self.rolling is not None:
            busy = self.rolling
            raise GateError(
                f"cannot move to {version}: the rollout of {busy.rollout.version} is under way "
                f"({busy.step or busy.rollout.state.value})",
                "wait for its end, or end it with `jules-agent bundle rollback`",
            )

    def stopped(self, *, hotfix: bool = False) -> str | None:
        """Why nothing else may go live now: a hold or a freeze window."""
        tools = self.tools
        if tools.layout.live() is None:
            return None
        return forbidden(tools.orders, self.config.freeze, tools.clock.now(), hotfix=hotfix)

    async def alone(self, what: str, work: Callable[[], T]) -> T:
        """The result of `work`, in a thread, while no rollout is under way and none can begin.

        Raises:
            GateError: one is under way.
        """
        async with self._beginning:
            if self.rolling is not None:
                version = self.rolling.rollout.version
                raise GateError(f"{what} waits for the rollout of {version}", "ask again later")
            return await in_thread(work)

    # -- the channel ----------------------------------------------------------------------------

    def supersede(self, desired: Desired | None) -> None:
        """End a rollout whose channel has moved to another version meanwhile."""
        rolling = self.rolling
        if rolling is None or desired is None:
            return
        if rolling.flipped and self.stopped() is not None:
            return  # putting it back would move what is held; its own bake still may
        if self._wish == _RESUMED:
            self._wish = key(desired)
        if key(desired) != self._wish and desired.version != rolling.rollout.version:
            rolling.abort(f"superseded: the channel asks for {desired.version} now", ban=False)

    def wait_for(self, desired: Desired) -> Seconds:
        """How long the next attempt at this wish must wait."""
        wish, _count, not_before = self._failed
        if wish != key(desired):
            return Seconds(0.0)
        return Seconds(max(0.0, not_before - self.tools.clock.monotonic()))

    # -- after a stop ---------------------------------------------------------------------------

    async def pick_up(self) -> None:
        """Close, resume or finish what a crash or a stop left open."""
        if self.rolling is not None:
            return
        tools = self.tools
        live = tools.layout.live()
        for rollout in tools.history.unfinished():
            await self._close_or_resume(rollout, live)
        if live is not None and self.rolling is None:
            await self._finish_way_back(live)

    async def _close_or_resume(self, rollout: Rollout, live: Version | None) -> None:
        tools, origin = self.tools, rollout.from_version
        if rollout.state is not State.DEPLOYING or rollout.version != live:
            reason = "the agent was stopped before the flip"
            await in_thread(lambda: tools.history.transition(rollout, State.FAILED, reason))
        elif origin is None or tools.verdicts.why_banned(digest_here(tools.layout, origin)):
            reason = "live when the agent was stopped, with nothing good to go back to"
            await in_thread(lambda: tools.history.transition(rollout, State.ACTIVE, reason))
        elif self.rolling is None:
            rolling = self._of(rollout)
            self._run(rolling, rolling.resume(), _RESUMED)

    async def _finish_way_back(self, live: Version) -> None:
        """Put `live` back, if that was written down and not done."""
        tools = self.tools
        newest = await in_thread(lambda: tools.history.newest(live))
        if newest is None or newest.state is not State.ROLLED_BACK:
            return
        asked = [] if newest.from_version is None else [newest.from_version]
        if choose(tools.layout, (*asked, *tools.good()), besides=(live,)) is None:
            return
        rolling = self._of(newest)
        try:
            await rolling.finish_way_back()
        except (AgentError, OSError) as error:
            _log.error("the way back failed; it is tried again", version=live, why=words(error))
        finally:
            await in_thread(rolling.close)
        self.settled = tools.layout.live()

    async def stop(self) -> None:
        """Cancel what is in progress and wait until it has let go."""
        if self._task is not None and not self._task.done():
            if self.rolling is not None:
                self.rolling.leave()
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    # -- carrying out ---------------------------------------------------------------------------

    def _of(
        self, rollout: Rollout, *, hotfix: bool = False, way_back: WayBack | None = None
    ) -> Rolling:
        return Rolling(
            self.tools,
            self.config,
            rollout,
            manifest_required=self._manifest_required,
            hotfix=hotfix,
            way_back=way_back,
        )

    def _run(
        self, rolling: Rolling, work: Coroutine[Any, Any, None], wish: str
    ) -> asyncio.Task[None]:
        self.rolling, self._wish = rolling, wish
        self._task = asyncio.create_task(self._carry_out(rolling, work), name="bundle-rollout")
        return self._task

    async def _carry_out(self, rolling: Rolling, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:  # noqa: BLE001 - the job goes on; the record is closed at the next look
            _log.exception("a rollout broke off", version=rolling.rollout.version, why=str(error))
        finally:
            work.close()
            self.rolling = None
            moved = rolling.rollout.version if rolling.moved else self.tools.layout.live()
            self.settled = moved
            self._count(rolling.rollout)
            await in_thread(rolling.close)
            self._ended()

    def _count(self, rollout: Rollout) -> None:
        """Space the attempts at what failed before its flip."""
        wish, count, _ = self._failed
        if rollout.state is not State.FAILED:
            self._failed = ("", 0, Monotonic(0.0))
            return
        count = count + 1 if wish == self._wish else 1
        poll = self.config.store.poll if self.config.store else _LONGEST_RETRY
        delay = min(_LONGEST_RETRY, poll * 2.0 ** min(count - 1, 16))
        delay *= 0.8 + 0.4 * self._roll()
        again = Monotonic(self.tools.clock.monotonic() + delay)
        self._failed = (self._wish, count, again)


def digest_here(layout: Layout, version: Version | None) -> Digest | None:
    """Digest of the manifest of a version that is here; None where it cannot be told."""
    if version is None:
        return None
    try:
        manifest = layout.manifest(version)
    except (BundleError, OSError):
        return None
    return manifest.digest if manifest else None


def stored_digest(store: Store, version: Version) -> Digest | None:
    """Digest of the version's manifest in the store; None when it has none. Raises StoreError."""
    raw = store.manifest(version)
    return None if raw is None else digest_of(raw)
