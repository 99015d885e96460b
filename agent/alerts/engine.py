"""The alerts job: scrape, judge, queue, deliver, each tick of a schedule that does not drift.

One tick, and on a faster schedule the same with the fast lanes and their rules alone:

1. all targets are scraped at once, each in its own thread, within the scrape's deadline
2. the moment they have answered every due rule is judged; what comes late has them judged again
3. what changed is committed together with the notifications that it calls for
4. the senders, tasks of their own that a tick never waits for, are woken

The job judges and delivers; whether a trader may trade does not depend on it, so none of its
conditions gates readiness: a pager that is down must not take a healthy pod out of service.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agent.alerts.damping import Withheld
from agent.alerts.desk import Desk
from agent.alerts.judge import Judge, Verdict, vanished
from agent.alerts.lanes import Lane
from agent.alerts.notifiers.base import SecretReader
from agent.alerts.outbox import Outbox
from agent.alerts.own import OwnMetrics
from agent.alerts.promql import Expression, compile  # noqa: A004 - as re.compile
from agent.alerts.redact import Redaction
from agent.alerts.report import Report
from agent.alerts.rounds import Rounds
from agent.alerts.rules import load_rules
from agent.alerts.scrape import Scraper
from agent.alerts.series import SeriesStore
from agent.alerts.states import Kept, States
from agent.alerts.telling import Context, Teller
from agent.alerts.timeline import Timeline
from agent.clock import Clock
from agent.config import Alerts, Target
from agent.errors import UsageError
from agent.gates import Reading, Result
from agent.health import Condition
from agent.state import StateDB
from agent.telemetry.logs import get_logger
from agent.telemetry.metrics import Recorder
from agent.telemetry.redaction import Redactor
from agent.units import Seconds, UnixTime

_log = get_logger(__name__)

LOOKBACK = Seconds(300.0)
"""Prometheus's own: how old the newest sample of a series may be."""
BLIND_FOR = Seconds(300.0)
"""With no target ever up since the start, restored alerts are given up after this long."""
_PRUNE_EVERY = Seconds(3600.0)
_MOST_GATES = 256


class AlertsJob:
    """Job `alerts`; answers other jobs' conditions as a `MetricGate`."""

    name = "alerts"

    def __init__(
        self,
        config: Alerts,
        *,
        db: StateDB,
        recorder: Recorder,
        clock: Clock,
        environment: str,
        pod: str,
        secret_reader: SecretReader | None,
        context: Context,
        redactor: Redactor,
    ) -> None:
        """Load the rules and everything remembered; nothing runs yet.

        Raises:
            RuleError: a rule file cannot be used.
            UsageError: a matcher is none, or a name is no destination's.
        """
        self.config = config
        self._recorder = recorder
        self._clock = clock
        self.db = db
        self._gates: dict[str, Expression] = {}
        self.outbox = Outbox(db, clock, config.outbox_limit)
        self.store = SeriesStore(config.max_series, LOOKBACK)
        self.redaction = Redaction(redactor, config.redact)
        self._states = States(db, self.redaction.scrub_texts)
        self.desk = Desk(
            config,
            db=db,
            outbox=self.outbox,
            recorder=recorder,
            clock=clock,
            environment=environment,
            reader=secret_reader,
            learn=redactor.learn,
        )
        self.senders = self.desk.senders
        self.teller = Teller(
            self._states,
            self.outbox,
            environment=environment,
            pod=pod,
            context=context,
            redactor=self.redaction,
            withheld=Withheld(db, self.redaction.scrub_texts),
            policy=self.desk.policy,
            wall=clock.now,
        )
        self.desk.set_aside = self.teller.set_aside
        self.judge = self._make_judge(config)
        self.scrapers = {
            target.job: self._make_scraper(config, target) for target in config.targets
        }
        self._timeline = Timeline(clock, config.interval)
        self._fast_line = Timeline(clock, config.fast_interval or config.interval, self._timeline)
        self._deciding = asyncio.Lock()
        self.own = OwnMetrics(self.store, recorder, pod)
        self._rounds = Rounds(self, recorder, clock)
        self._evaluated_at: UnixTime | None = None
        self._collecting_since: UnixTime | None = None
        self._began = self._timeline.now()
        self._pruned = clock.monotonic()
        self._orphans: list[Verdict] = []
        self._incoming: Callable[[], None] | None = None
        self._report = Report(self, recorder, clock)
        self._take_over(config)
        self._adopt(self._states.load(), self._began)

    # -- running ----------------------------------------------------------------------------

    async def run(self) -> None:
        """Tick until cancelled. The senders live on until `drain`."""
        self.start_senders()
        self.desk.watch()
        self._timeline.change(self.config.interval)
        await self._commit()
        try:
            await self._rounds.run(self._timeline, self._fast_line, self.tick)
        except Exception:
            self._recall()
            raise

    async def tick(self, at: UnixTime) -> None:
        """Scrape, judge, queue, once."""
        self.own.take(at)
        await self._rounds.whole(at)
        self._report.measure()
        if self._clock.monotonic() - self._pruned > _PRUNE_EVERY:
            self._pruned = self._clock.monotonic()
            await self.outbox.prune()
            self.desk.silences.forget_old()

    async def decide(self, at: UnixTime, lane: Lane, again: UnixTime | None = None) -> None:
        """Judge, queue, commit; one at a time, for both schedules come here."""
        try:
            async with self._deciding:
                await self._judge(at, lane, again)
        finally:
            self._settle()

    async def _judge(self, at: UnixTime, lane: Lane, again: UnixTime | None) -> None:
        decided = self._clock.now()
        if self._collecting_since is None and self._all_up():
            self._collecting_since = at
        verdicts = await self.judge.judge(
            at, self._collected(at), self.config.interval, lane, again
        )
        self._evaluated_at = UnixTime(max(at, self._evaluated_at or at))
        verdicts = self._orphans + verdicts
        self._orphans = []
        for item in self.teller.take(verdicts, self.judge, at, decided):
            self._recorder.inc(
                "notifications_total", destination=item.destination, outcome="dropped"
            )
        self.teller.repeat(self.judge, at, decided, self.desk.policy.routes.shortest_repeat)
        await self._commit()
        self.desk.evaluated()
        for name, sender in self.senders.items():
            sender.refresh(lambda name=name: self.teller.standing(self.judge, name, at))  # type: ignore[misc]

    def _recall(self) -> None:
        """After a crash in the middle of a tick: back to the states that were committed.

        What had fired in memory, and was perhaps not queued, fires again then; who was told already
        is not told twice.
        """
        for judged in self.judge.rules():
            judged.alerts = {}
        self._orphans = []
        self._adopt(self._states.load(), self._timeline.now())

    async def drain(self) -> None:
        """Judge no more; try once more to deliver what is queued, as far as the grace reaches."""
        try:
            self.start_senders()
            await self._commit()
            await self.desk.hurry()
        finally:
            await self.close()

    async def close(self) -> None:
        """Stop the senders and let every thread go; what is undelivered stays in the outbox."""
        await self.desk.stop()
        for scraper in self.scrapers.values():
            scraper.close()
        self.outbox.close()

    def start_senders(self) -> None:
        """Begin to deliver what is queued."""
        self.desk.start()

    async def _commit(self) -> None:
        if not await self.teller.commit():
            _log.error("alert state is not written", error=self.outbox.write_error)
        self.desk.wake()

    def _all_up(self) -> bool:
        return all(scraper.seen.up for scraper in self.scrapers.values())

    def _collected(self, at: UnixTime) -> Seconds | None:
        """For how long samples have been collected; None before the first."""
        if self._collecting_since is not None:
            return Seconds(at - self._collecting_since)
        blind = at - self._began - BLIND_FOR
        return Seconds(blind) if blind >= 0 else None

    # -- building, and building anew ----------------------------------------------------------

    def _make_judge(self, config: Alerts) -> Judge:
        groups = load_rules(config.rules)
        fast = config.fast_interval > 0
        return Judge(groups, self.store, self._recorder, config.external_labels, fast)

    def _make_scraper(self, config: Alerts, target: Target) -> Scraper:
        return Scraper(
            target,
            timeout=config.timeout,
            max_body=config.max_body,
            store=self.store,
            recorder=self._recorder,
            clock=self._clock,
        )

    def _adopt(self, kept: list[Kept], at: UnixTime) -> None:
        """Give remembered alerts to the rules; those without a rule end at the next tick."""
        adopted, orphans = self.judge.adopt(kept, at)
        for before, item in adopted:
            if before != item.rule:
                self.teller.remember(before, None, item.alert.fingerprint)
                self.teller.remember(item.rule, item.alert, item.alert.fingerprint)
        self._orphans.extend(vanished(item, at) for item in orphans)

    def _take_over(self, config: Alerts) -> None:
        """Routes, labels and what the store keeps, as the configuration and rules now say."""
        self.config = config
        self.outbox.limit = config.outbox_limit
        self.redaction.patterns = config.redact
        self.teller.policy = self.desk.policy
        self.teller.external = config.external_labels
        self._watch()

    def _watch(self) -> None:
        names = self.judge.names()
        looks_back = self.judge.longest_range()
        for expression in self._gates.values():
            looks_back = max(looks_back, Seconds(expression.longest_range))
            names = None if names is None or expression.names is None else names | expression.names
        self.store.watch(names)
        self.own.choose(names, self.config.own_metrics)
        self._rounds.divide()
        self.store.retention = Seconds(looks_back + LOOKBACK)

    def prepare(self, section: Alerts) -> Callable[[], None]:
        """Check that `section` can be taken over; the closure takes it over.

        Rules are read anew even when the section is the same: their files may have changed. A tick
        that is under way ends with the old ones. Alerts keep their state.

        Raises:
            RuleError: a rule file cannot be used.
            UsageError: what is fixed for the life of the process would change, a matcher is none,
                or a name is no destination's.
        """
        if section.max_series != self.config.max_series:
            raise UsageError("alerts.max_series cannot change while running", "restart the agent")
        judge = self._make_judge(section)
        desk = self.desk.prepare(section)

        def apply() -> None:
            self._replace(section, judge, desk)

        def commit() -> None:
            self._incoming = apply
            self._settle()

        return commit

    def _settle(self) -> None:
        """Apply a reload, once nothing is being judged."""
        if self._deciding.locked():
            return
        apply, self._incoming = self._incoming, None
        if apply is not None:
            apply()

    def _replace(self, section: Alerts, judge: Judge, desk: Callable[[], None]) -> None:
        at = self._timeline.now()
        old_names, old_retention = self.judge.names(), self.store.retention
        kept = [Kept(j.id, alert) for j in self.judge.rules() for alert in j.alerts.values()]
        self.judge.silence_series(judge, at)
        self.judge = judge
        self._adopt(kept, at)
        self._replace_scrapers(section)
        desk()
        if section.interval != self.config.interval:
            self._timeline.change(section.interval)
        if section.fast_interval != self.config.fast_interval:
            self._fast_line.change(section.fast_interval or section.interval)
        self._take_over(section)
        names = self.judge.names()
        grew = names is None or (old_names is not None and not names <= old_names)
        if (grew and old_names is not None) or self.store.retention > old_retention:
            self._collecting_since = None  # the new rules look at what was not collected so far
            self._began = at

    def _replace_scrapers(self, section: Alerts) -> None:
        old = self.scrapers
        fresh: dict[str, Scraper] = {}
        for target in section.targets:
            scraper = old.get(target.job)
            if scraper is None or scraper.target != target:
                scraper = self._make_scraper(section, target)
            scraper.timeout, scraper.max_body = section.timeout, section.max_body
            fresh[target.job] = scraper
        for job, scraper in old.items():
            if fresh.get(job) is not scraper:
                scraper.retire(self._timeline.now())
        self.scrapers = fresh

    def announce(self, verdict: Verdict) -> None:
        """Tell of something that no rule judges, with the next tick, as if one had."""
        self._orphans.append(verdict)

    # -- what other jobs ask ------------------------------------------------------------------

    def validate(self, expr: str) -> None:
        """Check a condition, and collect from now on what it looks at. Raises ExprError."""
        self._gate(expr)

    def read(self, expr: str) -> Reading:
        """What a condition says at the newest evaluation. Raises ExprError or EvalError."""
        expression = self._gate(expr)
        at = self._evaluated_at
        samples = [] if at is None else expression.instant(self.store, at)
        results = tuple(Result(dict(sample.labels), sample.value) for sample in samples)
        return Reading(results, self._samples_age())

    def _gate(self, expr: str) -> Expression:
        expression = self._gates.get(expr)
        if expression is None:
            expression = compile(expr)
            if len(self._gates) >= _MOST_GATES:
                self._gates.pop(next(iter(self._gates)))
            self._gates[expr] = expression
            self._watch()
        return expression

    def _samples_age(self) -> Seconds | None:
        now = self._clock.monotonic()
        good = [scraper.seen.last_good for scraper in self.scrapers.values()]
        if not good or any(when is None for when in good):
            return None
        return Seconds(max(now - when for when in good if when is not None))

    def admin(self, verb: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Carry out a verb of silences. Raises UsageError."""
        return self.desk.admin(verb, arguments)

    # -- what the face shows ------------------------------------------------------------------

    def conditions(self) -> Sequence[Condition]:
        """What is right and wrong; none gates readiness."""
        return self._report.conditions()

    def snapshot(self) -> Mapping[str, Any]:
        """The read model."""
        return self._report.snapshot()
