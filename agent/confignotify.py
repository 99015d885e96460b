"""The sections that name who is told of an alert, and where the credential for it is.

A credential is never a field of this tree: a section says where one is kept (`CredentialRef`), and
it is read anew at every attempt, so that a rotated one takes effect at once.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from agent.configtypes import FilePath, HttpUrl, Name, Positive, Section
from agent.units import Seconds

PagerDutySeverity = Literal["critical", "error", "warning", "info"]
LabelName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
DestinationName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_.-]*$", max_length=60)]

ALL = ("critical", "warning", "info")


class CredentialRef(Section):
    """Where a credential is: a secret of the agent's own chain, or a file. Exactly one of them."""

    secret: Name | None = Field(None, description="Name of a secret in the agent's own chain.")
    field: str | None = Field(None, description="Field to take when the secret is a JSON object.")
    file: FilePath | None = Field(None, description="File that holds the credential.")
    env: str | None = Field(
        None, description="Environment variable; works, with a warning: prefer `secret` or `file`."
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> CredentialRef:
        if sum(source is not None for source in (self.secret, self.file, self.env)) != 1:
            raise ValueError("name exactly one of `secret`, `file`, `env`")
        return self


class PagerDuty(Section):
    """PagerDuty Events v2."""

    url: HttpUrl = "https://events.pagerduty.com/v2/enqueue"
    routing_key: CredentialRef
    severities: tuple[str, ...] = ("critical",)
    timeout: Positive = Seconds(5.0)
    severity_map: dict[str, PagerDutySeverity] = Field(
        default_factory=dict,
        description="PagerDuty's severity for a `severity` label; unmapped words are `error`.",
    )
    class_label: LabelName = Field("alertname", description="Label told as the event's class.")
    component_label: LabelName = Field("service", description="Label told as its component.")
    group_label: LabelName = Field("team", description="Label told as its group.")
    client: str = Field("jules-agent", min_length=1, max_length=200, description="Who sends it.")
    client_url: HttpUrl | None = Field(
        None, description="Address behind the sender's name, such as this agent's status page."
    )


class Slack(Section):
    """Slack, by incoming webhook or bot token. The webhook's URL is itself a secret."""

    webhook_url: CredentialRef | None = Field(
        None, description="The webhook's URL, by where it is; or name `bot_token`."
    )
    bot_token: CredentialRef | None = Field(
        None,
        description="A bot's token (`chat:write`), by where it is: one message an alert, which is"
        " changed from firing to resolved.",
    )
    api_url: HttpUrl = Field(
        "https://slack.com/api", description="Base of the Web API that the bot's token is for."
    )
    channel: str = "#trading-alerts"
    severities: tuple[str, ...] = ALL
    timeout: Positive = Seconds(5.0)

    @model_validator(mode="after")
    def _one_way(self) -> Slack:
        if (self.webhook_url is None) == (self.bot_token is None):
            raise ValueError("name exactly one of `webhook_url`, `bot_token`")
        return self


class Alertmanager(Section):
    """A fleet's Alertmanager, by its API v2. Say there or here who pages, not both."""

    url: HttpUrl = Field(description="Base address, such as `http://alertmanager:9093`.")
    bearer_token: CredentialRef | None = Field(
        None, description="Sent as `Authorization: Bearer`, by where it is."
    )
    severities: tuple[str, ...] = Field(
        (*ALL, "none"), description="Severities that are handed over."
    )
    resend: Positive = Field(
        Seconds(60.0),
        description="What fires is told again this often; it ends there by itself after four times"
        " as long without a word.",
    )
    timeout: Positive = Field(Seconds(5.0), description="Deadline of one delivery.")
    generator_url: HttpUrl | None = Field(
        None, description="Link back from an alert, such as this agent's status page."
    )


class Webhook(Section):
    """Any receiver that takes Alertmanager's webhook payload, version 4."""

    name: DestinationName = Field("webhook", description="Its name among the destinations.")
    url: HttpUrl | None = Field(None, description="Where it listens; or name `url_from`.")
    url_from: CredentialRef | None = Field(
        None, description="The URL, by where it is, when it is itself a secret."
    )
    bearer_token: CredentialRef | None = Field(
        None, description="Sent as `Authorization: Bearer`, by where it is."
    )
    severities: tuple[str, ...] = Field(ALL, description="Severities that are told there.")
    timeout: Positive = Field(Seconds(5.0), description="Deadline of one delivery.")
    external_url: HttpUrl | None = Field(
        None, description="Told as `externalURL`, such as this agent's status page."
    )

    @model_validator(mode="after")
    def _one_address(self) -> Webhook:
        if (self.url is None) == (self.url_from is None):
            raise ValueError("name exactly one of `url`, `url_from`")
        return self


class LogDestination(Section):
    """The agent's own log as a destination: one line a notification."""

    severities: tuple[str, ...] = Field(ALL, description="Severities that are written.")
