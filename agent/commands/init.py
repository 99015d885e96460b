"""`jules-agent init`: the init container. Secrets first, then a verified bundle, then exit.

Only what the configuration uses is imported; no event loop, no metrics library. What it did is
logged and printed; the exit code says what was missing (3 secrets, 4 bundle, 6 store).
"""

from __future__ import annotations

import argparse
import time
from typing import Any

from agent import fs
from agent.audit import AuditError, AuditLog
from agent.clock import SystemClock
from agent.commands.common import config_path, keep_out_of_swap, set_up_logging, show
from agent.configload import load_init_config
from agent.configpod import PodConfig
from agent.errors import Exit, UsageError
from agent.hardening import harden
from agent.telemetry.metrics import NullRecorder
from agent.telemetry.redaction import REDACTOR


def init(arguments: argparse.Namespace) -> int:
    """Bring the pod to where the trader may start."""
    began = time.monotonic()
    harden()
    config = load_init_config(config_path(arguments))
    set_up_logging(config, arguments, at_first_event=True)
    keep_out_of_swap(config)
    _make_state_folder(config)
    try:
        told = _steps(config)
    except AuditError as error:  # what cannot be recorded is not handed out
        error.exit_code = Exit.SECRETS
        raise
    told["seconds"] = round(time.monotonic() - began, 3)
    show(arguments, told, _text(told))
    return 0


def _steps(config: PodConfig) -> dict[str, Any]:
    audit = AuditLog(config.state_path, **dict(config.audit))
    told: dict[str, Any] = {}
    try:
        if config.secrets.enabled:
            told["secrets"] = _secrets(config, audit)
        if config.bundles.enabled:
            told["bundle"] = _bundle(config, audit)
    finally:
        audit.close()
    return told


def _make_state_folder(config: PodConfig) -> None:
    folder = config.state_path
    try:
        fs.make_dirs_durable(folder)
    except OSError as error:
        raise UsageError(
            f"state folder {folder} cannot be made: {error.strerror}",
            "name your configuration with --config or JULES_CONFIG, make the folder's parent"
            " writable for the agent's uid, or set state_dir",
        ) from error


def _secrets(config: PodConfig, audit: AuditLog) -> dict[str, Any]:
    from agent.secrets.service import SecretsService

    service = SecretsService(
        config.secrets,
        environment=config.environment,
        audit=audit,
        recorder=NullRecorder(),
        clock=SystemClock(),
        redactor=REDACTOR,
        actor="init",
    )
    live = fs.is_locked(config.state_path / "agent.lock")
    result = service.publish_once(beside_agent=live)
    return {
        "generation": result.generation,
        "changed": result.changed,
        "files": result.files,
        "directory": str(config.secrets.directory),
    }


def _bundle(config: PodConfig, audit: AuditLog) -> dict[str, Any]:
    from agent.bundles.init import init_bundle

    version = init_bundle(
        config.bundles,
        channel=config.channel,
        manifest_required=config.manifest_required,
        production=config.environment == "production",
        state_dir=config.state_path,
        audit=audit,
        clock=SystemClock(),
    )
    return {"version": version, "root": str(config.bundles.root)}


def _text(told: dict[str, Any]) -> str:
    lines = []
    if "secrets" in told:
        seen = told["secrets"]
        what = "published" if seen["changed"] else "already published"
        lines.append(
            f"secrets: {seen['files']} {what} as generation {seen['generation']}"
            f" in {seen['directory']}"
        )
    if "bundle" in told:
        lines.append(f"bundle: {told['bundle']['version']} is current in {told['bundle']['root']}")
    lines.append(f"ready for the trader after {told['seconds'] * 1000:.0f} ms")
    return "\n".join(lines)
