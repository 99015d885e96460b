"""`jules-agent check rules`: rules load, what in them looks wrong, and their unit tests hold."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from agent.commands.common import read_config, show
from agent.errors import Exit, UsageError
from agent.units import Bytes, Seconds

_NAME = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)", re.MULTILINE)
_DEADLINE = Seconds(10.0)


def check_rules(arguments: argparse.Namespace) -> int:
    """Load, lint and test rules; 2 when a rule does not load or a test does not hold."""
    from agent.alerts.lint import warnings
    from agent.alerts.rules import load_rules
    from agent.alerts.ruletests import run_tests

    patterns, interval = tuple(arguments.files), Seconds(arguments.interval or 1.0)
    if not patterns:
        config = read_config(arguments)
        patterns = config.alerts.rules
        interval = Seconds(arguments.interval or config.alerts.interval)
    groups = load_rules(patterns)
    count = sum(len(group.rules) for group in groups)
    live = _exposed(arguments.exposed) if arguments.exposed else None
    warned = list(warnings(groups, interval, live=live))
    lines = [f"ok    {count} rules in {len(groups)} groups load"]
    lines += [f"warn  {warning}" for warning in warned]
    failed = []
    held = 0
    for file in arguments.tests or ():
        for check in run_tests(Path(file)):
            held += check.holds
            if not check.holds:
                failed.append(f"{file}: {check.test}: {check.asked}: {check.got}")
    lines += [f"FAIL  {failure}" for failure in failed]
    if arguments.tests:
        lines.append(
            f"{'FAIL' if failed else 'ok  '}  {held} expectations hold, {len(failed)} do not"
        )
    tree = {"rules": count, "warnings": warned, "held": held, "failed": failed}
    show(arguments, tree, "\n".join(lines))
    return Exit.USAGE if failed else Exit.GOOD


def _exposed(url: str) -> frozenset[str]:
    """The metric names that a target exposes now."""
    from agent.alerts.exchange import Connection, ExchangeError

    connection = Connection()
    try:
        answer = connection.exchange("GET", url, deadline=_DEADLINE, max_body=Bytes(64 * 1024**2))
    except ExchangeError as error:
        raise UsageError(f"the target cannot be read: {error}", "see that it runs") from None
    finally:
        connection.close()
    if answer.status != 200:
        raise UsageError(f"the target answered {answer.status}", "give the URL of its metrics")
    return frozenset(_NAME.findall(answer.body.decode(errors="replace")))
