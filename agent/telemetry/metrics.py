"""Every metric of the agent, declared once, and the narrow way in which jobs record them.

Jobs see only `Recorder`; the init path hands them `NullRecorder` and never pays for the client
library. An undeclared name or label is a KeyError or ValueError at once, so a test that walks a
path also checks its metrics. Names follow Prometheus's conventions: base units, `_total` for
counters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

Kind = Literal["counter", "gauge", "histogram"]

_MS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


@dataclass(frozen=True, slots=True)
class Spec:
    """One metric: its kind, what it tells, its labels, and its buckets where it has some."""

    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = _MS


PREFIX = "jules_agent_"

METRICS: dict[str, Spec] = {
    # the process
    "build_info": Spec("gauge", "Always 1; the version is in the label.", ("version",)),
    "job_up": Spec("gauge", "1 while the job runs, 0 while it is down or backing off.", ("part",)),
    "job_restarts_total": Spec("counter", "Times a crashed job was started again.", ("part",)),
    "condition_ok": Spec("gauge", "1 when the named health condition holds.", ("condition",)),
    "config_reloads_total": Spec("counter", "Reloads of the configuration.", ("outcome",)),
    "loop_lag_seconds": Spec("gauge", "How late the event loop ran its last heartbeat."),
    # secrets
    "secret_reads_total": Spec("counter", "Reads from a secret provider.", ("provider", "outcome")),
    "secret_provider_up": Spec(
        "gauge", "0 while a secret provider is left alone because it failed.", ("provider",)
    ),
    "secret_cache_total": Spec("counter", "Look-ups in the secret cache.", ("result",)),
    "secret_cache_hit_ratio": Spec(
        "gauge", "Share of look-ups in the secret cache that cost no call of a provider."
    ),
    "secret_proofs_total": Spec(
        "counter", "Probes of new values before they are published.", ("outcome",)
    ),
    "secret_unproven": Spec("gauge", "Secrets whose new value failed its probe."),
    "secret_changes_told_total": Spec(
        "counter", "Tries to tell of a new generation of secrets.", ("outcome",)
    ),
    "secret_age_seconds": Spec(
        "gauge", "Seconds since the secret's value was last confirmed by a provider.", ("secret",)
    ),
    "secret_generation": Spec("gauge", "Number of the published generation of secrets."),
    "secret_publishes_total": Spec(
        "counter", "Publications of a generation of secrets.", ("outcome",)
    ),
    "secret_publish_seconds": Spec("histogram", "From first read to the flip of ..data."),
    "secret_drift_repairs_total": Spec("counter", "Published files put right again.", ("what",)),
    # bundles
    "bundle_info": Spec("gauge", "1 for the version that `current` points at.", ("version",)),
    "bundle_live_since_timestamp_seconds": Spec("gauge", "When `current` was last flipped."),
    "bundle_rollouts_total": Spec("counter", "Rollouts that have ended.", ("outcome",)),
    "bundle_step_seconds": Spec("histogram", "How long each step of a rollout took.", ("step",)),
    "bundle_collected_total": Spec("counter", "Old versions removed from disk."),
    "bundle_store_checks_total": Spec("counter", "Looks at the bundle store.", ("outcome",)),
    "bundle_store_last_success_timestamp_seconds": Spec(
        "gauge", "When the bundle store last answered."
    ),
    # alerts
    "scrapes_total": Spec("counter", "Scrapes of a target.", ("target", "outcome")),
    "scrape_seconds": Spec("histogram", "From request to last byte of a scrape.", ("target",)),
    "series": Spec("gauge", "Series kept for the rules."),
    "series_dropped_total": Spec("counter", "Samples not kept because the bound was met."),
    "rule_evaluations_total": Spec("counter", "Evaluations of a rule.", ("outcome",)),
    "rule_group_seconds": Spec("histogram", "How long a group of rules took to evaluate."),
    "rule_group_missed_total": Spec(
        "counter", "Evaluations that groups of rules have missed since their last one."
    ),
    "alert_ticks_skipped_total": Spec(
        "counter", "Evaluations not made because the one before took too long."
    ),
    "alerts": Spec("gauge", "Alerts by state.", ("state",)),
    "notifications_total": Spec(
        "counter", "Attempts to deliver a notification.", ("destination", "outcome")
    ),
    "alert_delivery_seconds": Spec(
        "histogram", "From the sample that decided to the receiver's acceptance.", ("destination",)
    ),
    "deadman_pings_total": Spec(
        "counter", "Pings to the dead man's service, made or withheld.", ("outcome",)
    ),
    "outbox_pending": Spec("gauge", "Notifications not yet accepted.", ("destination",)),
    "outbox_oldest_seconds": Spec("gauge", "Age of the oldest notification not yet accepted."),
}


class Recorder(Protocol):
    """How a job records: by short name (without the prefix) and label values."""

    def inc(self, name: str, amount: float = 1.0, **labels: str) -> None:
        """Add to a counter."""
        ...

    def set(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge."""
        ...

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Add one observation to a histogram."""
        ...

    def forget(self, name: str, **labels: str) -> None:
        """Drop a labelled child that no longer exists, such as a version that is not live."""
        ...


class NullRecorder:
    """Records nothing: for the init path and for tests of something else."""

    def inc(self, name: str, amount: float = 1.0, **labels: str) -> None:
        check(name, "counter", labels)

    def set(self, name: str, value: float, **labels: str) -> None:
        check(name, "gauge", labels)

    def observe(self, name: str, value: float, **labels: str) -> None:
        check(name, "histogram", labels)

    def forget(self, name: str, **labels: str) -> None:
        check(name, METRICS[name].kind, labels)


def check(name: str, kind: Kind, labels: dict[str, str]) -> None:
    spec = METRICS[name]
    if spec.kind != kind or set(labels) != set(spec.labels):
        raise ValueError(f"metric {name} is a {spec.kind} with labels {spec.labels}")


def full_names() -> Sequence[str]:
    """Every metric's name as it is exposed."""
    return [PREFIX + name for name in METRICS]
