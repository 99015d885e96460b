"""The configuration: one pydantic tree is one YAML file, and the only place where defaults live.

Reading, environment overrides and error reports are in `agent.configload`. Durations are written
as `250ms`, `30s`, `5m`, `1h` or a number of seconds; sizes as `64MiB` or a number of bytes. Unknown
keys are errors: a misspelt `max_stale` must not silently mean the default. No secret value is ever
a field of this tree: credentials are named by where they are (`CredentialRef`).
"""

from __future__ import annotations

import re

from pydantic import Field, model_validator

from agent.confignotify import (
    Alertmanager,
    LogDestination,
    PagerDuty,
    Slack,
    Webhook,
)
from agent.configpod import (
    PodConfig,
)
from agent.configrouting import (
    DeadMan,
    Fallback,
    Flapping,
    Inhibition,
    Maintenance,
    Route,
    Storm,
)
from agent.configtypes import Duration, HttpUrl, Positive, Section, Size, left_out
from agent.units import Bytes, Seconds


class Target(Section):
    """One process that is scraped."""

    job: str = Field("trader", pattern=r"^[A-Za-z_][A-Za-z0-9_-]*$")
    url: HttpUrl = "http://localhost:8000/metrics"
    labels: dict[str, str] = Field(default_factory=dict)


class Alerts(Section):
    """Job three: Prometheus's rules, judged here, delivered surely."""

    enabled: bool = True
    targets: tuple[Target, ...] = left_out(({},))
    interval: Positive = Seconds(1.0)
    fast_interval: Duration = Field(
        Seconds(0.25),
        description="How often the metrics of critical rules are asked for alone; 0: never.",
    )
    zero_samples: bool = Field(
        True,
        description="Begin the counters of critical rules at zero, when and where they were born.",
    )
    own_metrics: bool = Field(
        True, description="Judge rules on the agent's own metrics too, as job `jules-agent`."
    )
    timeout: Positive = Field(Seconds(0.8), description="Deadline of one scrape.")
    max_body: Size = Field(Bytes(16 * 1024**2), description="Largest exposition that is read.")
    max_series: int = Field(20000, ge=100)
    rules: tuple[str, ...] = Field(
        (), description="Rule files or glob patterns; default: the rules shipped with the agent."
    )
    external_labels: dict[str, str] = Field(default_factory=dict)
    pagerduty: PagerDuty | None = None
    slack: Slack | None = None
    alertmanager: Alertmanager | None = Field(
        None, description="A fleet's Alertmanager, by its API v2."
    )
    webhooks: tuple[Webhook, ...] = Field(
        (), description="Receivers of Alertmanager's webhook payload; each `name` once."
    )
    log: LogDestination | None = Field(
        None, description="The agent's own log as a destination; `{}` for all severities."
    )
    redact: tuple[str, ...] = Field(
        (),
        description="Regular expressions; what they match in the value of a label or annotation"
        " leaves the agent as `[redacted]`.",
    )
    repeat_interval: Positive = Field(
        Seconds(4 * 3600.0), description="A firing alert is told again after this."
    )
    outbox_limit: int = Field(10000, ge=100, description="Undelivered notifications kept.")
    route: Route | None = Field(
        None, description="A routing tree; without one the destinations' `severities` decide."
    )
    inhibit: tuple[Inhibition, ...] = Field((), description="Which alerts mute which.")
    maintenance: tuple[Maintenance, ...] = Field((), description="Windows in which nobody is told.")
    flapping: Flapping = left_out()
    storm: Storm = left_out()
    fallbacks: tuple[Fallback, ...] = Field(
        (), description="Who is told in place of a destination that is down."
    )
    deadman: DeadMan | None = Field(
        None, description="A ping to an outside URL that stops when evaluation stops."
    )

    @model_validator(mode="after")
    def _distinct_jobs(self) -> Alerts:
        names = [target.job for target in self.targets]
        if len(set(names)) != len(names):
            raise ValueError("two targets have the same `job`")
        return self

    @model_validator(mode="after")
    def _destinations(self) -> Alerts:
        names = ["pagerduty", "slack", "alertmanager", "log", *(h.name for h in self.webhooks)]
        if len(set(names)) != len(names):
            raise ValueError("two destinations have the same `name`")
        for pattern in self.redact:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"redact: {pattern!r} is no regular expression: {error}") from None
        return self


class Config(PodConfig):
    """The whole configuration of one agent."""

    alerts: Alerts = left_out()
