"""`jules-agent check`: a doctor. Looks at everything that can be looked at without changing it.

Each finding is good, a warning or a failure, with a remedy; any failure ends with exit code 2. It
reads key files only as the agent will, and shows nothing of them.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from agent import fs
from agent.commands.common import read_config, show
from agent.config import Config
from agent.confignotify import CredentialRef
from agent.errors import AgentError, Exit
from agent.hardening import harden

Verdict = Literal["good", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at."""

    verdict: Verdict
    what: str
    remedy: str = ""


def check(arguments: argparse.Namespace) -> int:
    """Look at everything; print all findings; 0 when nothing fails."""
    if getattr(arguments, "what", None) == "rules":
        from agent.commands.checkrules import check_rules

        return check_rules(arguments)
    config = read_config(arguments)
    findings = [Finding("good", f"configuration is valid ({config.environment})")]
    looks: list[Callable[[Config], Iterator[Finding]]] = [
        _process,
        _state,
        _secrets,
        _bundles,
        _rules,
        _credentials,
    ]
    for look in looks:
        findings.extend(look(config))
    signs = {"good": "ok  ", "warn": "warn", "fail": "FAIL"}
    lines = []
    for finding in findings:
        lines.append(f"{signs[finding.verdict]}  {finding.what}")
        if finding.remedy:
            lines.append(f"      what to do: {finding.remedy}")
    tree = [{"verdict": f.verdict, "what": f.what, "remedy": f.remedy} for f in findings]
    show(arguments, tree, "\n".join(lines))
    failed = any(finding.verdict == "fail" for finding in findings)
    return Exit.USAGE if failed else Exit.GOOD


def _process(_config: Config) -> Iterator[Finding]:
    seen = harden()
    if seen.dumpable or seen.core_limit != 0:
        yield Finding("warn", "the kernel refused to close this process to its neighbours")
    else:
        yield Finding("good", "process memory is closed to its neighbours; no core dumps")


def _state(config: Config) -> Iterator[Finding]:
    folder = config.state_path
    place = _nearest(folder)
    if os.access(place, os.W_OK):
        yield Finding("good", f"state folder {folder} is writable ({fs.filesystem_type(place)})")
    else:
        yield Finding(
            "fail", f"state folder {folder} is not writable", "set state_dir or its owner"
        )


def _secrets(config: Config) -> Iterator[Finding]:
    if not config.secrets.enabled:
        return
    directory = config.secrets.directory
    kind = fs.filesystem_type(_nearest(directory))
    if kind in ("tmpfs", "ramfs"):
        yield Finding("good", f"secrets directory {directory} is on {kind}")
    elif config.secrets.allow_disk:
        yield Finding("warn", f"secrets directory {directory} is on {kind}", "use a tmpfs")
    else:
        yield Finding("fail", f"secrets directory {directory} is on {kind}", "mount a tmpfs there")
    local = config.secrets.local
    key = local.key_file or local.passphrase_file
    if key is None:
        yield Finding("fail", "the local store has no key", "set secrets.local.key_file")
    else:
        yield _private(Path(key), "key of the local store")
    from agent.commands.secretschecks import looks

    for verdict, what, remedy in looks(config.secrets):
        yield Finding(verdict, what, remedy)


def _bundles(config: Config) -> Iterator[Finding]:
    if not config.bundles.enabled:
        return
    root = config.bundles.root
    current = fs.read_link(root / "current")
    if current is None:
        yield Finding("warn", f"{root}/current does not exist yet", "init or run will make it")
    elif not (root / current).is_dir():
        yield Finding("fail", f"{root}/current points at nothing", "start the agent: it reconciles")
    else:
        yield Finding("good", f"{root}/current is {Path(current).name}")
    store = config.bundles.store
    if store is None:
        yield Finding("warn", "no bundle store is configured", "set bundles.store")
        return
    from agent.bundles.stores.make import make_store

    made = make_store(config.bundles)
    try:
        desired = made.desired(config.channel) if made else None
    except AgentError as error:
        yield Finding("warn", str(error), error.remedy)
        return
    if desired is None:
        yield Finding(
            "warn", f"the store has no channel {config.channel}", "publish with `bundle publish`"
        )
    else:
        yield Finding("good", f"the store {store.place} has channel {config.channel}")


def _rules(config: Config) -> Iterator[Finding]:
    if not config.alerts.enabled:
        return
    from agent.alerts.rules import load_rules

    try:
        groups = load_rules(config.alerts.rules)
    except AgentError as error:
        yield Finding("fail", str(error), error.remedy)
        return
    count = sum(len(group.rules) for group in groups)
    yield Finding("good", f"{count} rules in {len(groups)} groups load")
    told = config.alerts
    if not (told.pagerduty or told.slack or told.alertmanager or told.webhooks or told.log):
        yield Finding("warn", "alerts go nowhere", "configure alerts.pagerduty or alerts.slack")


def _credentials(config: Config) -> Iterator[Finding]:
    if not config.alerts.enabled:
        return
    told = config.alerts
    refs: list[tuple[str, CredentialRef | None]] = []
    if told.pagerduty:
        refs.append(("PagerDuty routing key", told.pagerduty.routing_key))
    if told.slack:
        refs.append(("Slack webhook", told.slack.webhook_url))
        refs.append(("Slack bot token", told.slack.bot_token))
    if told.alertmanager:
        refs.append(("Alertmanager token", told.alertmanager.bearer_token))
    for hook in told.webhooks:
        refs.append((f"{hook.name} URL", hook.url_from))
        refs.append((f"{hook.name} token", hook.bearer_token))
    for what, ref in refs:
        if ref is None:
            continue
        if ref.env is not None:
            yield Finding(
                "warn",
                f"{what} comes from the environment, where every child process sees it",
                "put it into the secrets chain or a file",
            )
        elif ref.file is not None:
            yield _private(Path(ref.file), what)
        else:
            yield Finding("good", f"{what} comes from secret {ref.secret}")


def _private(path: Path, what: str) -> Finding:
    """What the agent itself will say of the file when it reads it."""
    from agent.secrets.providers.keyfile import read_private

    try:
        read_private(path)
    except AgentError as error:
        return Finding("fail", f"{what}: {error}", error.remedy)
    return Finding("good", f"{what}: {path} is closed to others")


def _nearest(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path
