"""What a reload may change, and what is fixed for the life of the process."""

from __future__ import annotations

from typing import Any

from agent.config import Config
from agent.errors import UsageError


def refuse_fixed(old: Config, new: Config) -> None:
    """Refuse a reload that changes what is fixed for the life of the process.

    Raises:
        UsageError: names every such option.
    """
    fixed: tuple[tuple[str, Any, Any], ...] = (
        ("environment", old.environment, new.environment),
        ("state_dir", old.state_path, new.state_path),
        ("web", (old.web.listen, old.admin_socket), (new.web.listen, new.admin_socket)),
        ("secrets.enabled", old.secrets.enabled, new.secrets.enabled),
        ("bundles.enabled", old.bundles.enabled, new.bundles.enabled),
        ("alerts.enabled", old.alerts.enabled, new.alerts.enabled),
    )
    changed = [name for name, before, after in fixed if before != after]
    if changed:
        raise UsageError(
            f"cannot change while running: {', '.join(changed)}", "restart the agent for these"
        )
