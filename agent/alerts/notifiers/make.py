"""The destinations that a configuration names, built; nothing is sent yet."""

from __future__ import annotations

from agent.alerts.notifiers.alertmanager import AlertmanagerNotifier
from agent.alerts.notifiers.base import Learn, Notifier, SecretReader
from agent.alerts.notifiers.logged import LogNotifier
from agent.alerts.notifiers.pagerduty import PagerDutyNotifier
from agent.alerts.notifiers.slack import SlackNotifier
from agent.alerts.notifiers.slackbot import SlackBotNotifier
from agent.alerts.notifiers.webhook import WebhookNotifier
from agent.config import Alerts
from agent.state import StateDB
from agent.telemetry.logs import get_logger

_log = get_logger(__name__)


def make_notifiers(
    config: Alerts, reader: SecretReader | None, learn: Learn, db: StateDB
) -> list[Notifier]:
    """One notifier a destination. Warns of credentials that come from the environment."""
    made: list[Notifier] = []
    if config.pagerduty is not None:
        made.append(PagerDutyNotifier(config.pagerduty, reader, learn))
    if config.slack is not None and config.slack.bot_token is not None:
        made.append(SlackBotNotifier(config.slack, reader, learn, db))
    elif config.slack is not None:
        made.append(SlackNotifier(config.slack, reader, learn))
    if config.alertmanager is not None:
        made.append(AlertmanagerNotifier(config.alertmanager, reader, learn))
    made.extend(WebhookNotifier(hook, reader, learn) for hook in config.webhooks)
    if config.log is not None:
        made.append(LogNotifier(config.log))
    for notifier in made:
        if notifier.credential is not None and notifier.credential.from_environment:
            _log.warning(
                "a credential comes from the environment, where every child process sees it;"
                " put it into the secrets chain or a file",
                destination=notifier.name,
            )
    return made
