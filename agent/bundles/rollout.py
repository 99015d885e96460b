"""One rollout from its first byte to ACTIVE, FAILED or ROLLED_BACK.

    PENDING  -> VALIDATING  copy (store to .staging, hashed), validate (what we staged), keep
             -> DEPLOYING   gates (hold, freeze, disk, secrets, trader, metrics), flip, on_flip,
                            verify, bake
             -> ACTIVE
Before the flip a failure ends FAILED: `current` has not moved. After it, the last good version is
put back and the rollout ends ROLLED_BACK; its content is banned until it changes or a person
deploys it. Each transition is written down before it is acted on (`history`).

A first version, with nothing good to go back to, is not baked: there is no better answer than it.
A bake without an alerts job is judged by the trader's health alone, and says so.

Stopping: cancelled before the flip, a rollout ends FAILED and leaves at most a complete version on
disk, to be reused. Cancelled after it, it stays DEPLOYING: `resume` verifies and bakes anew from
the start, because what happened while nobody watched is unknown. `abort` ends it from outside, with
the same way back as a breach.
"""

from __future__ import annotations

import asyncio

from agent.bundles import gates
from agent.bundles.bake import BakeWatch, Verdict
from agent.bundles.errors import GateError, NoRoomError, RejectedError, RolloutError
from agent.bundles.flip import back, choose, forward, nothing_live
from agent.bundles.health import Answer
from agent.bundles.model import State
from agent.bundles.progress import AbortedError, MovedError, Progress, read_before, words
from agent.bundles.staging import Draft, copy, discard, keep, prove
from agent.bundles.stores.base import Store
from agent.bundles.threads import in_thread
from agent.bundles.verified import Verified, verify
from agent.errors import AgentError
from agent.telemetry.logs import get_logger
from agent.units import Digest, Seconds, UnixTime, Version

_log = get_logger(__name__)

_ASK_EVERY = Seconds(0.1)


class Rolling(Progress):
    """A rollout in progress. Lives on the loop; what it shows may be read at any time."""

    async def deploy(self, store: Store, digest: Digest | None, *, force: bool) -> None:
        """Bring the version from `store` to ACTIVE. Never raises for what goes wrong on the way:
        the rollout's state and reason say it. `force` flips over an unwell trader and over metric
        gates that are broken already."""
        try:
            await self._to(State.VALIDATING)
            await self._stage(store, digest)
            await self._to(State.DEPLOYING)
            forgiven = await self._gates(force=force)
            await self._flip()
        except asyncio.CancelledError:
            if not self._is_live():
                await self._to(State.FAILED, "abandoned: the agent was stopped before the flip")
            raise
        except (AgentError, OSError) as error:
            if self.flipped and self._is_live():
                await self._restore(words(error), ban=True)
            else:
                await self._fail(error)
            return
        await self._watch_over(forgiven)

    async def resume(self) -> None:
        """Go on with a rollout whose version is live already: verify it and bake it anew."""
        self.flipped = True
        self._before = read_before(self.rollout)
        await self._watch_over(frozenset())

    async def go_back(self, left: Version | None, reason: str) -> None:
        """Make an earlier version live again, without gates or bake: it has been good before.
        Like `deploy`, tells how it ended by the rollout's state."""
        tools, version = self._tools, self.rollout.version
        try:
            await self._to(State.VALIDATING)
            async with self._step("validate"):
                await in_thread(self._verify_files)
            await self._to(State.DEPLOYING)
            async with self._step("flip"):
                await self._settle()
                await in_thread(lambda: self._locked(lambda: self._back_to(version, left)))
                self._flipped_now()
        except asyncio.CancelledError:
            if not self._is_live():
                await self._to(State.FAILED, "abandoned: the agent was stopped before the flip")
            raise
        except (AgentError, OSError) as error:
            await self._fail(error, ban=False)
            return
        try:
            await self._tell_trader("on_flip", left, must=False)
            async with self._step("verify") as step:
                answer = await self._adopted()
                if answer.version != version and self.section.health.adopt_within:
                    step.outcome, step.detail = "unconfirmed", self._not_adopted(answer)
        except AbortedError:
            _log.info("nobody waits for the trader any more", version=version)
        finally:  # cancelled or not: what was asked for is done
            await in_thread(lambda: tools.history.transition(self.rollout, State.ACTIVE, reason))

    # -- the steps ----------------------------------------------------------------------------

    async def _stage(self, store: Store, digest: Digest | None) -> None:
        tools, rollout, limits = self._tools, self.rollout, self.section.limits
        proof = self._proof()

        def copied() -> Draft:
            return copy(
                tools.layout,
                store,
                rollout.version,
                limits=limits,
                manifest_required=self._manifest_required,
                digest=digest,
                verified=tools.verified,
                proof=proof,
                stop=self._stop_copy.is_set,
            )

        rollout.digest = digest
        async with self._step("copy") as step:
            try:
                draft = await in_thread(lambda: self._locked(copied))
            except NoRoomError as error:
                raise self._no_room(error) from error
            rollout.digest = draft.manifest.digest
            step.detail = draft.told()
        try:
            async with self._step("validate"):
                await in_thread(lambda: prove(draft, limits=limits))
                await in_thread(lambda: self._locked(lambda: keep(tools.layout, draft, proof)))
        except BaseException:
            await in_thread(lambda: discard(draft))
            raise

    def _no_room(self, error: NoRoomError) -> NoRoomError:
        told = self._tools.reclaimable
        return NoRoomError(f"{error}; `bundle gc` would free {told() if told else 0}", error.remedy)

    async def _gates(self, *, force: bool) -> frozenset[str]:
        """Returns the names of the gates that `force` flips over."""
        section, tools = self.section, self._tools
        async with self._step("gates") as step:
            self._stopped_by_order()
            for reason in (
                gates.disk(tools.layout.root, section.limits),
                gates.secrets(tools.secret_gate),
            ):
                if reason is not None:
                    raise GateError(reason)
            if self.rollout.from_version is None:
                step.detail = "nothing is live yet: trader and metrics are not asked"
                return frozenset()
            answer = await self._well()
            if not answer.ok and not force:
                raise GateError(f"the trader is unwell: {answer.why}", "mend it, or deploy --force")
            looks = await self._judged()
            step.values = [item.as_dict() for item in looks]
            self._before = gates.baseline(looks)
            broken = gates.unjudged(looks, section.bake) or gates.breached(looks)
            if broken is not None and not force:
                raise GateError(broken, "mend what it tells, or deploy --force")
            if broken is not None or not answer.ok:
                step.detail = f"flipped over by force: {broken or answer.why}"
                self._excused = frozenset(
                    item.name for item in looks if item.name not in self._before
                )
            return frozenset(item.name for item in looks if item.breach() is not None)

    async def _well(self) -> Answer:
        """The trader's health, asked until it is well or `attempts` are used up."""
        health = self.section.health
        for attempt in range(health.attempts):
            if attempt:
                await self._pause(health.interval)
            answer = await in_thread(self._probe.ask)
            if answer.ok:
                break
        return answer

    async def _judged(self) -> list[gates.Look]:
        """The gates, looked at until all can be judged or that has taken too long: an agent that
        has just started has no samples yet."""
        bake, clock = self.section.bake, self._tools.clock
        give_up = clock.monotonic() + gates.stale_after(bake)
        while True:
            looks = gates.look_all(bake, self._tools.metric_gate)
            if gates.unjudged(looks, bake) is None or clock.monotonic() >= give_up:
                return looks
            await self._pause(bake.interval)

    async def _flip(self) -> None:
        version = self.rollout.version
        async with self._step("flip"):
            await self._settle()
            self.flipped = True  # from here on, what is live decides

            def move() -> None:
                self._stopped_by_order()  # it may have come since the gates
                forward(self._tools.layout, version)

            await in_thread(lambda: self._locked(move))
            self._flipped_now()

    async def _watch_over(self, forgiven: frozenset[str]) -> None:
        """Verify and bake what is live; keep it or put the old one back."""
        kept = None
        try:
            if self._is_live() and self.rollout.from_version is not None:
                await self._tell_trader("on_flip", self.rollout.from_version, must=True)
            await self._verify()
            if self.rollout.from_version is not None:
                await self._bake(forgiven)
            else:
                kept = "the first version: nothing to go back to, so not baked"
            await self._to(State.ACTIVE, kept)
            if self._tools.told is not None:
                self._tools.told.went_live(self.rollout.version)
        except MovedError as error:
            self.moved = True
            await self._to(State.ROLLED_BACK, str(error))
        except AbortedError as error:
            assert self._aborted is not None
            await self._restore(str(error), ban=self._aborted[1])
        except (AgentError, OSError) as error:
            await self._restore(words(error), ban=True)

    async def _verify(self) -> None:
        health = self.section.health
        async with self._step("verify") as step:
            if not self._is_live():
                raise MovedError(f"current is {self._tools.layout.live()}, changed by hand")
            await in_thread(lambda: self._verify_files(anew=True))
            if self.rollout.from_version is None or not health.adopt_within:
                step.detail = "files; the trader was not asked"
                return
            answer = await self._adopted()
            if answer.version != self.rollout.version:
                raise RolloutError(self._not_adopted(answer))

    async def _adopted(self) -> Answer:
        """The trader's answer, asked until it reports the version or the time is over."""
        clock, health = self._tools.clock, self.section.health
        give_up = clock.monotonic() + health.adopt_within
        answer = Answer(ok=False, why="not asked")
        while health.adopt_within:
            answer = await in_thread(self._probe.ask)
            if answer.version == self.rollout.version or clock.monotonic() >= give_up:
                break
            await self._pause(_ASK_EVERY)
        return answer

    def _not_adopted(self, answer: Answer) -> str:
        health = self.section.health
        seen = (
            f"reports {answer.version}" if answer.version else f"reports no version ({answer.why})"
        )
        return f"the trader {seen} {health.adopt_within:g} s after the flip"

    async def _bake(self, forgiven: frozenset[str]) -> None:
        tools, bake, health = self._tools, self.section.bake, self.section.health
        clock = tools.clock
        async with self._step("bake") as step:
            if tools.metric_gate is None:
                step.detail = "judged by the trader's health alone: the alerts job is off"
            watch = BakeWatch(
                bake,
                clock.monotonic(),
                attempts=health.attempts,
                forgiven=forgiven,
                excused=self._excused,
            )
            self.bake_ends_at = UnixTime(clock.now() + bake.duration)
            unwell: list[str] = []
            asking = asyncio.create_task(self._keep_asking(unwell), name="bundle-bake-health")
            try:
                while True:
                    self.looks = gates.look_all(bake, tools.metric_gate, self._before)
                    now = clock.monotonic()
                    why = unwell[-1] if unwell else ""
                    told = watch.feed(now, self.looks, unwell=len(unwell), why_unwell=why)
                    if told.verdict is Verdict.BREACH:
                        raise RolloutError(f"bake: {told.reason}")
                    if tools.layout.live() != self.rollout.version:
                        raise MovedError(f"current is {tools.layout.live()}, changed by hand")
                    if told.verdict is Verdict.PASSED:
                        return
                    left = watch.left(now)
                    await self._pause(Seconds(min(bake.interval, left) if left else bake.interval))
            finally:
                step.values = [item.as_dict() for item in self.looks]
                self.bake_ends_at = None
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)

    async def _keep_asking(self, unwell: list[str]) -> None:
        """Ask the trader beside the bake; `unwell` holds its complaints since it was last well."""
        every = max(self.section.bake.interval, self.section.health.interval)
        while True:
            answer = await in_thread(self._probe.ask)
            if answer.ok:
                unwell.clear()
            else:
                unwell.append(answer.why)
            await self._tools.clock.sleep(Seconds(every))

    # -- ends ---------------------------------------------------------------------------------

    async def _fail(self, error: AgentError | OSError, *, ban: bool = True) -> None:
        rollout, tools = self.rollout, self._tools
        reason = self._aborted[0] if self._aborted else words(error)
        if ban and isinstance(error, RejectedError):
            await self._ban(reason)
        await in_thread(lambda: tools.history.transition(rollout, State.FAILED, reason))

    async def _ban(self, reason: str) -> None:
        rollout, tools = self.rollout, self._tools
        digest = rollout.digest
        if digest is None:
            return
        now = tools.clock.now()
        try:
            await in_thread(lambda: tools.verdicts.ban(rollout.version, digest, reason, now))
        except AgentError as error:
            _log.error("a ban was not written down", error=error.told())

    async def _restore(self, reason: str, *, ban: bool) -> None:
        """Put the last good version back; never leaves `current` on nothing that was good."""
        rollout, tools = self.rollout, self._tools
        if ban:
            await self._ban(reason)
        await in_thread(lambda: tools.history.announce(rollout, State.ROLLED_BACK, reason))
        try:
            self._abort.clear()  # the way back is not aborted by what asked for it
            async with self._step("rollback") as step:
                step.detail = await self._way_back()
            await self._tell_trader("told_back", rollout.version, must=False)
        except (AgentError, OSError) as error:
            reason = f"{reason}; the way back failed: {words(error)}"
            _log.error("the way back failed; it is tried again", error=words(error))
        finally:
            await in_thread(lambda: tools.history.apply(rollout, State.ROLLED_BACK, reason))
            if tools.told is not None:
                live = tools.layout.live()
                tools.told.rolled_back(rollout.version, live, reason, rollout.actor)

    async def _way_back(self) -> str:
        rollout, tools = self.rollout, self._tools
        layout = tools.layout
        await self._settle()

        def put_back() -> str:
            good = tools.good()
            asked = [] if rollout.from_version is None else [rollout.from_version]
            target = choose(layout, (*asked, *good), besides=(rollout.version,))
            if target is not None:
                self._back_to(target, rollout.version)
                return f"current is {target}"
            if rollout.from_version is not None:
                raise RolloutError(f"{rollout.from_version} and every other good one are gone")
            nothing_live(layout)
            return "none was live before it, and none is now"

        told = await in_thread(lambda: self._locked(put_back))
        self._flipped_now()
        return told

    async def finish_way_back(self) -> None:
        """Do again, for a rollout that is ROLLED_BACK but still live, what was not done."""
        async with self._step("rollback") as step:
            step.detail = await self._way_back()
        await self._tell_trader("told_back", self.rollout.version, must=False)

    # -- small things ---------------------------------------------------------------------------

    def _back_to(self, version: Version, left: Version | None) -> None:
        tools = self._tools
        besides = [version] if left is None else [version, left]
        previous = choose(tools.layout, tools.good(), besides=besides)
        back(tools.layout, version, previous)

    def _verify_files(self, *, anew: bool = False) -> None:
        """Compare what is below `bundles` with its manifest; `anew`: read it, whatever is known."""
        tools, version = self._tools, self.rollout.version
        manifest = tools.layout.require(version)
        self.rollout.digest = manifest.digest
        verified = Verified() if anew else tools.verified
        verify(tools.layout.folder(version), manifest, verified)
        tools.verified.take(verified)
