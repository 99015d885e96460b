"""What every rollout stands on: shared tools, timed steps, waits that can be ended from outside.

`rollout.Rolling` says what is done, in which order; this says how a step is timed and written down,
how a wait ends at once when the rollout is aborted, and that everything which changes the root
holds its lock.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from agent.bundles.errors import BundleError, GateError
from agent.bundles.flip import settle_left
from agent.bundles.gates import Look, forbidden
from agent.bundles.health import TraderProbe
from agent.bundles.history import History
from agent.bundles.hooks import Flip, tell
from agent.bundles.layout import Layout
from agent.bundles.model import Rollout, State, Step, WayBack
from agent.bundles.orders import Orders
from agent.bundles.threads import in_thread
from agent.bundles.trust import Proof, Trust
from agent.bundles.verdicts import Verdicts
from agent.bundles.verified import Verified, verify
from agent.clock import Clock
from agent.configpod import Bundles
from agent.errors import AgentError
from agent.gates import MetricGate, RolloutTold, SecretGate
from agent.telemetry.logs import get_logger
from agent.telemetry.metrics import Recorder
from agent.units import Bytes, Monotonic, Seconds, UnixTime, Version

T = TypeVar("T")
_log = get_logger(__name__)

CHANNEL_ACTOR = "channel"
"""Who asks for a rollout when no person does."""


class AbortedError(BundleError):
    """The rollout was ended from outside."""


class MovedError(BundleError):
    """`current` was changed by somebody else while the rollout watched over it."""


@dataclass(slots=True)
class Tools:
    """What every rollout of one agent shares."""

    layout: Layout
    history: History
    verdicts: Verdicts
    orders: Orders
    recorder: Recorder
    clock: Clock
    secret_gate: SecretGate | None
    metric_gate: MetricGate | None
    last_flip: Monotonic
    told: RolloutTold | None = None
    reclaimable: Callable[[], Bytes] | None = None
    """What a collection of old versions would give back."""
    trust: Trust | None = None
    """Whose signatures count."""
    verified: Verified = field(default_factory=Verified)

    def good(self) -> list[Version]:
        """Versions to go back to, best first: rolled out well, and not banned since."""
        banned = {item.version for item in self.verdicts.quarantine}
        return [version for version in self.history.good() if version not in banned]


class Progress:
    """How a rollout goes on. What it shows may be read at any time."""

    def __init__(
        self,
        tools: Tools,
        section: Bundles,
        rollout: Rollout,
        *,
        manifest_required: bool,
        hotfix: bool = False,
        way_back: WayBack | None = None,
    ) -> None:
        self.rollout = rollout
        self.section = section
        self.looks: list[Look] = []
        self.bake_ends_at: UnixTime | None = None
        self.flipped = False
        self.moved = False
        self._tools = tools
        self._manifest_required = manifest_required
        self._hotfix = hotfix
        self._way_back_leave = way_back
        self._before: dict[str, float] = {}
        self._excused: frozenset[str] = frozenset()
        self._probe = TraderProbe(section.health)
        self._aborted: tuple[str, bool] | None = None
        self._abort = asyncio.Event()
        self._stop_copy = threading.Event()

    @property
    def step(self) -> str | None:
        """The step that runs now."""
        steps = self.rollout.steps
        return steps[-1].step if steps and steps[-1].outcome == "running" else None

    def abort(self, reason: str, *, ban: bool) -> None:
        """End this rollout as soon as may be: before the flip as FAILED, after it by the way back.
        `ban` says whether its content was found bad."""
        if self._aborted is None:
            self._aborted = (reason, ban)
        self._abort.set()
        self._stop_copy.set()

    def leave(self) -> None:
        """The agent is stopping: a copy need not be finished. The task is cancelled next."""
        self._stop_copy.set()

    def close(self) -> None:
        """Let go of connections, once the rollout has ended."""
        self._probe.close()

    def _locked(self, work: Callable[[], T]) -> T:
        with self._tools.layout.lock(f"a change of {self._tools.layout.root}"):
            return work()

    def _proof(self) -> Proof | None:
        """By what the manifest is judged: only what a channel asks for may not lead backwards."""
        trust = self._tools.trust
        if trust is None:
            return None
        person = self.rollout.actor != CHANNEL_ACTOR
        return Proof(trust, self._tools.clock.now(), person, self._way_back_leave)

    def _is_live(self) -> bool:
        return self._tools.layout.live() == self.rollout.version

    def _stopped_by_order(self) -> None:
        """Raise GateError while a hold or a freeze window keeps what is live."""
        if self.rollout.from_version is None:
            return  # nothing is live: there is nothing to keep
        tools = self._tools
        reason = forbidden(
            tools.orders, self.section.freeze, tools.clock.now(), hotfix=self._hotfix
        )
        if reason is not None:
            raise GateError(reason, "wait, `bundle resume` after a hold, or `deploy --hotfix WHY`")

    async def _tell_trader(self, name: str, before: Version | None, *, must: bool) -> None:
        """Carry out `on_flip`, once for one flip: it is on disk that it begins before it does.
        Where it was begun before a kill, nobody knows how far it came: it is not begun again."""
        hook, live = self.section.on_flip, self._tools.layout.live()
        if hook is None or live is None or any(item.step == name for item in self.rollout.steps):
            return
        flip = Flip(live, before, self._tools.layout.folder(live))
        try:
            async with self._step(name) as step:
                if must:
                    await in_thread(lambda: self._tools.history.insist(self.rollout))
                step.detail = await in_thread(lambda: tell(hook, flip))
        except AbortedError:
            raise
        except AgentError as error:
            if must:
                raise
            _log.error("the trader was not told of the way back", why=str(error))

    def _flipped_now(self) -> None:
        self._tools.last_flip = self._tools.clock.monotonic()

    async def _settle(self) -> None:
        tools = self._tools
        left = settle_left(tools.last_flip, tools.clock.monotonic(), self.section.settle)
        if left > 0:
            await self._pause(left)

    async def _pause(self, duration: Seconds) -> None:
        """Wait, or raise AbortedError as soon as somebody ends this rollout."""
        waits = (
            asyncio.ensure_future(self._tools.clock.sleep(duration)),
            asyncio.ensure_future(self._abort.wait()),
        )
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        self._check_aborted()

    def _check_aborted(self) -> None:
        if self._abort.is_set() and self._aborted is not None:
            raise AbortedError(self._aborted[0])

    async def _to(self, state: State, reason: str | None = None) -> None:
        if state is not State.FAILED:
            self._check_aborted()
        await in_thread(lambda: self._tools.history.transition(self.rollout, state, reason))

    @asynccontextmanager
    async def _step(self, name: str) -> AsyncIterator[Step]:
        """Time a step and write down how it ended."""
        self._check_aborted()
        tools, step = self._tools, Step(name)
        self.rollout.steps.append(step)
        began = tools.clock.monotonic()
        try:
            yield step
            if step.outcome == "running":
                step.outcome = "passed"
        except asyncio.CancelledError:
            step.outcome = "interrupted"
            raise
        except AbortedError as error:
            step.outcome, step.detail = "aborted", str(error)
            raise
        except (AgentError, OSError) as error:
            step.outcome, step.detail = "failed", words(error)
            raise
        finally:
            step.seconds = Seconds(round(tools.clock.monotonic() - began, 6))
            tools.recorder.observe("bundle_step_seconds", step.seconds, step=name)
            await in_thread(lambda: tools.history.save(self.rollout))


def damaged(tools: Tools) -> str | None:
    """What is wrong with the bytes of what is live, or of what a rollback would go to. Hashed,
    unless known and unchanged: damage is told before it matters, and the way back need not read a
    GiB first."""
    layout, found = tools.layout, None
    for version in (layout.live(), layout.version_at(layout.previous)):
        if version is None:
            continue
        try:
            verify(layout.folder(version), layout.require(version), tools.verified)
        except AgentError as error:
            found = str(error)
    return found


def read_before(rollout: Rollout) -> dict[str, float]:
    """By gate, what was read before the flip, as the rollout's own record has it."""
    return {
        str(seen["gate"]): seen["value"]
        for step in rollout.steps
        if step.step == "gates"
        for seen in step.values
        if isinstance(seen.get("value"), float | int)
    }


def words(error: AgentError | OSError) -> str:
    """An error in one line, without its remedy."""
    if isinstance(error, AgentError):
        return str(error)
    return f"{error.strerror or error}" + (f" ({error.filename})" if error.filename else "")
