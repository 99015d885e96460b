"""Made-up secrets for the demo: random at every call, so that nothing real is ever shown."""

from __future__ import annotations

import secrets
from typing import Any

PUBLISHED = ("database/main", "broker/interactive_brokers", "api_key/market_data")
"""What the trader needs. The pager's and Slack's credentials are the agent's own: unpublished."""


def secret_values(receiver: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Name, type and value of every secret of the demo.

    Args:
        receiver: base URL of the receiver that stands for PagerDuty and Slack.
    """
    hook = f"{receiver}/services/T0DEMO/B0DEMO/{secrets.token_hex(12)}"
    return [
        ("database/main", "database_password", database()),
        (
            "broker/interactive_brokers",
            "api_key",
            {"username": "demo", "password": secrets.token_urlsafe(18), "account": "DU0000000"},
        ),
        ("api_key/market_data", "api_key", {"api_key": secrets.token_hex(20)}),
        ("api_key/pagerduty", "api_key", {"routing_key": secrets.token_hex(16)}),
        ("api_key/slack", "api_key", {"webhook_url": hook}),
    ]


def database() -> dict[str, Any]:
    """A database's credentials with a new password."""
    return {
        "username": "trading",
        "password": secrets.token_urlsafe(24),
        "host": "db.internal",
        "port": 5432,
        "database": "trading",
    }
