"""A destination's credential is looked at before it is needed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from agent.alerts.credentials import Credentials
from agent.alerts.notifiers.pagerduty import PagerDutyNotifier
from agent.alerts.sender import Sender
from agent.confignotify import PagerDuty
from tests.faults.clock import FakeClock


def _watched(file: Path) -> tuple[Credentials, PagerDutyNotifier]:
    section = PagerDuty.model_validate({"routing_key": {"file": str(file)}})
    notifier = PagerDutyNotifier(section, None, lambda _name, _value: None)
    sender: Any = SimpleNamespace(notifier=notifier)
    return Credentials(lambda: {"pagerduty": cast("Sender", sender)}, FakeClock(1.0)), notifier


@pytest.mark.parametrize("held", [None, "", "too-short", "a" * 33, "a" * 31 + "\n b"])
async def test_a_credential_that_could_not_be_used_is_a_condition_until_it_is_put_right(
    tmp_path: Path, held: str | None
) -> None:
    file = tmp_path / "key"
    if held is not None:
        file.write_text(held)
    watched, notifier = _watched(file)
    await watched.look()
    (condition,) = watched.conditions()
    assert condition.name == "destination-pagerduty-credential"
    assert (condition.ok, condition.gates_ready) == (False, False)
    assert condition.remedy
    assert not held or held not in condition.reason
    file.write_text("k" * 32 + "\n")
    await watched.look()
    assert [c.ok for c in watched.conditions()] == [True]
    assert notifier.credential.used == ""  # a look is no use
