"""What the alerts job shows: conditions, the read model, gauges. Only reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agent.alerts.groups import alerts as active
from agent.alerts.groups import described
from agent.alerts.ledger import Ledger
from agent.alerts.outbox import SHOWN_FOR
from agent.clock import Clock
from agent.health import Condition
from agent.telemetry.metrics import Recorder

if TYPE_CHECKING:
    from agent.alerts.engine import AlertsJob

_LATE = 60.0
"""A notification that waits longer than this, in seconds, is worth a condition."""


class Report:
    """Reads one job."""

    def __init__(self, job: AlertsJob, recorder: Recorder, clock: Clock) -> None:
        self._job = job
        self._recorder = recorder
        self._clock = clock
        self._ledger = Ledger(job.db, job.outbox)
        self._dropped = 0
        self._measured: set[str] = set()

    def measure(self) -> None:
        """Set the gauges; called once a tick."""
        job, recorder = self._job, self._recorder
        recorder.set("series", float(job.store.count))
        if job.store.dropped > self._dropped:
            recorder.inc("series_dropped_total", job.store.dropped - self._dropped)
            self._dropped = job.store.dropped
        states = [alert.state for alert in job.judge.alerts()]
        for state in ("pending", "firing"):
            recorder.set("alerts", float(states.count(state)), state=state)
        waiting = job.outbox.waiting()
        names = {item.destination for item in waiting} | set(job.senders)
        for name in names:
            count = sum(item.destination == name for item in waiting)
            recorder.set("outbox_pending", float(count), destination=name)
        for name in self._measured - names:
            recorder.forget("outbox_pending", destination=name)
        self._measured = names
        oldest = min((item.created_at for item in waiting), default=None)
        age = 0.0 if oldest is None else max(0.0, self._clock.now() - oldest)
        recorder.set("outbox_oldest_seconds", age)

    # -- conditions ---------------------------------------------------------------------------

    def conditions(self) -> list[Condition]:
        """Targets, rules, series, each destination, what was given up, the disk."""
        found = [self._targets(), self._rules(), self._series(), self._routes()]
        found.extend(self._destination(name) for name in self._job.senders)
        found.extend((self._given_up(), self._disk()))
        found.extend(self._job.desk.conditions())
        return found

    def _targets(self) -> Condition:
        down = [
            f"{scraper.seen.last_error}"
            for scraper in self._job.scrapers.values()
            if scraper.seen.last_error
        ]
        unseen = [s.target.job for s in self._job.scrapers.values() if s.seen.last_scrape is None]
        return _condition(
            "alerts-targets",
            "; ".join(down) or (f"not scraped yet: {', '.join(unseen)}" if unseen else ""),
            "every target is scraped",
            "see that the process runs and serves its metrics where alerts.targets says",
        )

    def _rules(self) -> Condition:
        broken = [f"{j.rule.name}: {j.last_error}" for j in self._job.judge.rules() if j.last_error]
        more = f" (and {len(broken) - 3} more)" if len(broken) > 3 else ""
        return _condition(
            "alerts-rules",
            "; ".join(broken[:3]) + more,
            "every rule evaluates",
            "correct the rule; its alerts stay as they were until it evaluates again",
        )

    def _series(self) -> Condition:
        job = self._job
        full = job.store.count >= job.config.max_series
        return _condition(
            "alerts-series",
            f"the bound of {job.config.max_series} series is met; new ones are not kept"
            if full
            else "",
            f"{job.store.count} of at most {job.config.max_series} series",
            "raise alerts.max_series, or find the label whose values never end",
        )

    def _routes(self) -> Condition:
        job = self._job
        if not job.senders:
            return _condition(
                "alerts-routes", "no destination is configured: nobody is told", "",
                "configure alerts.pagerduty or alerts.slack",
            )  # fmt: skip
        told = job.desk.policy.routes.ways({"severity": "critical"})
        lost = "" if told else "no one is told of critical"
        return _condition(
            "alerts-routes", lost, "critical alerts have a destination",
            "add `critical` to the severities of a destination, or a receiver to alerts.route",
        )  # fmt: skip

    def _destination(self, name: str) -> Condition:
        delivery = self._job.senders[name].delivery
        waiting = self._job.outbox.waiting(name)
        problem = ""
        if delivery.failures:
            problem = f"{delivery.last_error}; {len(waiting)} waiting, {delivery.failures} tries"
        elif waiting and self._clock.now() - waiting[0].created_at > _LATE:
            problem = f"{len(waiting)} waiting; the service's rate limit holds them back"
        return _condition(
            f"alerts-delivery-{name}",
            problem,
            "accepts what it is sent" if delivery.last_success else "nothing was sent yet",
            delivery.remedy or "nothing is lost: it is tried until the service accepts",
        )

    def _given_up(self) -> Condition:
        job = self._job
        since = self._clock.now() - SHOWN_FOR
        recent = [entry for entry in job.outbox.given_up if entry[0] > since]
        gone = {item.destination for item in job.outbox.waiting()} - set(job.senders)
        problem = ""
        if recent:
            _, name, how, error = recent[-1]
            problem = f"{len(recent)} in a day; the last to {name}, {how}: {error}"
        elif gone:
            problem = f"notifications wait for {', '.join(sorted(gone))}, no longer configured"
        return _condition(
            "alerts-given-up",
            problem,
            "nothing was dropped or refused for good in a day",
            "see the log for the alerts' names and for what the service said",
        )

    def _disk(self) -> Condition:
        error = self._job.outbox.write_error
        return _condition(
            "alerts-durable",
            f"the outbox cannot be written: {error}" if error else "",
            "what is queued is on disk",
            "free space on the state folder's volume; until then a restart loses what waits",
        )

    # -- the read model -----------------------------------------------------------------------

    def snapshot(self) -> dict[str, Any]:
        """JSON-able; no secret in it."""
        job = self._job
        return {
            "rules": sum(1 for _ in job.judge.rules()),
            "groups": described(job.judge, job.config.interval),
            "series": job.store.count,
            "targets": [scraper.as_dict() for scraper in job.scrapers.values()],
            "alerts": [job.redaction.scrub_tree(told) for told in active(job.judge)],
            "destinations": [self._delivery(name) for name in job.senders],
            "ledger": self._ledger.entries(job.senders),
            "silences": job.desk.silences.list()["silences"],
            "muted": [
                {
                    "name": alert.name,
                    "labels": job.redaction.scrub_texts(alert.labels),
                    "reason": job.teller.muted[alert.fingerprint],
                }
                for alert in job.judge.alerts()
                if alert.fingerprint in job.teller.muted
            ],
        }

    def _delivery(self, name: str) -> dict[str, Any]:
        delivery = self._job.senders[name].delivery
        waiting = self._job.outbox.waiting(name)
        oldest = self._clock.now() - waiting[0].created_at if waiting else None
        return {
            "name": name,
            "pending": len(waiting),
            "oldest_seconds": None if oldest is None else round(max(0.0, oldest), 1),
            "last_success": delivery.last_success,
            "last_error": delivery.last_error,
            "accepted": self._job.outbox.delivered(name)[0],
        }


def _condition(name: str, problem: str, well: str, remedy: str) -> Condition:
    return Condition(
        name,
        ok=not problem,
        reason=problem or well,
        remedy=remedy if problem else "",
        gates_ready=False,
    )
