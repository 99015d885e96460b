"""A value that does not work never takes the place of one that does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from agent.configrotation import Probe
from agent.configsecrets import Secrets
from agent.secrets.errors import ProofError
from agent.secrets.model import Fetched
from agent.secrets.service import SecretsService
from agent.telemetry.metrics import NullRecorder
from agent.telemetry.redaction import Redactor
from tests.faults.clock import FakeClock
from tests.secrets.conftest import FakeProvider
from tests.secrets.test_generation import shown
from tests.secrets.test_service import service_of, wants

Make = Callable[..., Secrets]
BAD = {b"bad", b"worse"}


class Prober:
    """Lets pass what is not in `bad`; remembers what it was asked."""

    def __init__(self) -> None:
        self.bad = set(BAD)
        self.asked: list[bytes] = []

    def __call__(self, _probe: Probe, fetched: Fetched) -> None:
        data = fetched.value.reveal()
        self.asked.append(data)
        if data in self.bad:
            raise ProofError(f"the new value of {fetched.name} does not work", "mend it")


def service_with(
    config: Secrets, provider: FakeProvider, clock: FakeClock, prober: Prober
) -> SecretsService:
    made = service_of(config, provider, clock)
    made.proofs._prove = prober
    return made


PROBE = {"kind": "tcp", "address": "127.0.0.1:9"}


def test_a_value_that_fails_its_probe_keeps_the_old_file_while_others_go_on(
    config: Make, provider: FakeProvider, memory: Path
) -> None:
    clock, prober = FakeClock(), Prober()
    provider.values = {"db": b"good", "other": b"1"}
    service = service_with(
        config(wants("db", format="raw", probe=PROBE), wants("other", format="raw")),
        provider,
        clock,
        prober,
    )
    service.publish()
    provider.values = {"db": b"bad", "other": b"2"}
    service.publish(refresh=True)
    assert shown(memory) == {"db": b"good", "other": b"2"}
    assert list(service.proofs.unproven) == ["db"]
    prober.bad.clear()
    clock.tick(6)
    assert service.next_expiry() <= 0.0
    service.publish()
    assert shown(memory) == {"db": b"bad", "other": b"2"}
    assert not service.proofs.unproven


def test_a_failed_value_is_tried_again_with_a_growing_pause_and_another_one_at_once(
    config: Make, provider: FakeProvider, memory: Path
) -> None:
    clock, prober = FakeClock(), Prober()
    provider.values = {"db": b"good"}
    service = service_with(config(wants("db", format="raw", probe=PROBE)), provider, clock, prober)
    service.publish()
    provider.values = {"db": b"bad"}
    pauses = []
    for _ in range(4):
        service.publish(refresh=True)
        service.publish(refresh=True)  # within the pause: not asked again
        pauses.append(round(service.proofs.due_in()))
        clock.tick(service.proofs.due_in() + 0.01)
    assert pauses == [5, 10, 20, 40]
    assert prober.asked == [b"good", *[b"bad"] * 4]
    service.publish(refresh=True)
    provider.values = {"db": b"better"}
    service.publish(refresh=True)
    assert shown(memory) == {"db": b"better"}


def test_a_restarted_agent_holds_a_bad_value_back_too(
    config: Make, provider: FakeProvider, memory: Path
) -> None:
    section = config(wants("db", format="raw", probe=PROBE), wants("o", format="raw"))
    provider.values = {"db": b"good", "o": b"1"}
    service_with(section, provider, FakeClock(), Prober()).publish()
    prober = Prober()
    again = service_with(section, provider, FakeClock(), prober)
    again.publish()
    assert prober.asked == []  # what is published already needs no proof
    provider.values = {"db": b"bad", "o": b"2"}
    fresh = service_with(section, provider, FakeClock(), Prober())
    fresh.publish()
    assert shown(memory) == {"db": b"good", "o": b"2"}


@pytest.mark.parametrize("first", ["publish", "refuse"])
def test_with_no_value_before_the_configuration_decides(
    first: str, config: Make, provider: FakeProvider, memory: Path
) -> None:
    provider.values = {"db": b"bad"}
    section = config(wants("db", format="raw", probe={**PROBE, "first": first}))
    service = service_with(section, provider, FakeClock(), Prober())
    if first == "refuse":
        with pytest.raises(ProofError):
            service.publish()
        assert not (memory / "db").exists()
    else:
        service.publish()
        assert shown(memory) == {"db": b"bad"}
    assert list(service.proofs.unproven) == ["db"]


def test_the_old_value_that_comes_back_ends_the_trouble_without_a_probe(
    config: Make, provider: FakeProvider, memory: Path
) -> None:
    prober = Prober()
    provider.values = {"db": b"good"}
    service = service_with(
        config(wants("db", format="raw", probe=PROBE)), provider, FakeClock(), prober
    )
    service.publish()
    provider.values = {"db": b"worse"}
    service.publish(refresh=True)
    provider.values = {"db": b"good"}
    service.publish(refresh=True)
    assert not service.proofs.unproven
    assert prober.asked == [b"good", b"worse"]


def test_a_template_never_shows_a_value_that_is_held_back(
    config: Make, provider: FakeProvider, memory: Path, tmp_path: Path
) -> None:
    template = tmp_path / "t.j2"
    template.write_text("x={{ secret('db') }}")
    section = config(
        wants("db", format="raw", probe=PROBE),
        wants("db", format="template", template=str(template), path="conf"),
    )
    provider.values = {"db": b"good"}
    service = SecretsService(
        section,
        environment="development",
        audit=None,
        recorder=NullRecorder(),
        clock=FakeClock(),
        redactor=Redactor(),
        providers=[provider],
    )
    service.proofs._prove = Prober()
    service.publish()
    before = shown(memory)
    provider.values = {"db": b"bad"}
    service.publish(refresh=True)
    assert shown(memory) == before
