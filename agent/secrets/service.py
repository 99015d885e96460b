"""The synchronous core: provider → chain → cache → generation. Used by `init`, the job, the verbs.

No event loop here, so that the init container pays for none. Every access is audited (who, what,
version, provider, outcome) and counted; every value is made known to the redactor before anyone
else sees it. An audit log that cannot be written stops the access: a secret handed out without a
record is worse than a refresh that comes late. One reader is excepted: the agent itself, for the
credentials by which it pages (`own`). A full disk is what pages are for.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from agent.audit import AuditError, AuditLog, Record
from agent.clock import Clock
from agent.configbackends import DEFAULT_ORDER
from agent.configsecrets import Secrets
from agent.errors import AgentError
from agent.secrets.cache import Cache
from agent.secrets.chain import SKIPPED, Chain, Policy
from agent.secrets.errors import ProofError, UnavailableError, afresh
from agent.secrets.generation import Published
from agent.secrets.model import Fetched, secret_name
from agent.secrets.proofs import Proofs
from agent.secrets.providers.base import Backend, Provider
from agent.secrets.providers.local import LocalStore
from agent.secrets.publishing import Publishing
from agent.secrets.tree import Item
from agent.telemetry.logs import get_logger
from agent.telemetry.metrics import Recorder
from agent.telemetry.redaction import Redactor
from agent.units import Seconds, SecretName

_log = get_logger(__name__)

_FIRST_WAIT = 0.2
_LONGEST_WAIT = 3.0
_NAMED = 5


def local_store(config: Secrets, clock: Clock, state: Path | None = None) -> LocalStore:
    """The local provider as configured; its high-water mark is in the folder `state`, if any."""
    local = config.local
    return LocalStore(
        local.path,
        key_file=local.key_file,
        passphrase_file=local.passphrase_file,
        next_key_file=local.next_key_file,
        state=state,
        clock=clock,
    )


def configured(
    config: Secrets, environment: str, clock: Clock, state: Path | None = None
) -> list[Provider | Backend]:
    """The configured providers, in order; the code of one that is not is never imported."""
    made: list[Provider | Backend] = []
    for name in config.chain.order or DEFAULT_ORDER[environment]:
        if name == "local":
            made.append(local_store(config, clock, state))
        elif name == "vault" and config.vault is not None:
            from agent.secrets.providers.vault.provider import VaultProvider

            made.append(VaultProvider(config.vault, clock=clock))
        elif name == "aws" and config.aws is not None:
            from agent.secrets.providers.aws.provider import AwsProvider

            made.append(AwsProvider(config.aws, clock=clock))
    return made


def policy_of(config: Secrets, environment: str) -> Policy:
    """The chain's policy as configured."""
    chain = config.chain
    return Policy(
        deadline=chain.deadline,
        falls_through=chain.falls_through(environment),
        failures=chain.breaker.failures,
        rest=chain.breaker.rest,
        longest_rest=chain.breaker.longest_rest,
    )


class SecretsService:
    """Everything about one configuration's secrets. Safe from any thread but for publishing."""

    def __init__(
        self,
        config: Secrets,
        *,
        environment: str,
        audit: AuditLog | None,
        recorder: Recorder,
        clock: Clock,
        redactor: Redactor,
        providers: Sequence[Provider | Backend] | None = None,
        actor: str = "agent",
        sleep: Callable[[float], None] = time.sleep,
        roll: Callable[[], float] = random.random,
    ) -> None:
        """Nothing is read yet. `providers` overrides those of the configuration; `actor` is who
        reads, for the audit log."""
        self.config = config
        self.environment = environment
        self._audit = audit
        self._recorder = recorder
        self._clock = clock
        self._redactor = redactor
        self._sleep = sleep
        self._roll = roll
        self._actor = actor
        self._unrecorded: ContextVar[bool] = ContextVar("unrecorded", default=False)
        self._why: ContextVar[str] = ContextVar("why", default="")
        self._tries: ContextVar[list[Record]] = ContextVar("tries")
        self.denied: dict[SecretName, str] = {}
        self.chain = Chain(
            providers or configured(config, environment, clock, audit.directory if audit else None),
            self._told,
            policy=policy_of(config, environment),
            clock=clock,
            roll=roll,
        )
        self.cache = Cache(
            self._load,
            clock,
            ttl=config.cache_ttl,
            max_stale=config.max_stale,
            told=lambda result: recorder.inc("secret_cache_total", result=result),
            bounds={
                secret_name(item.name): Seconds(item.max_stale)
                for item in config.items
                if item.max_stale is not None
            },
            roll=roll,
        )
        self._publishing = Publishing(config, clock)
        self.publisher = self._publishing.publisher
        self.errors: dict[SecretName, AgentError] = {}
        self.proofs = Proofs(config, clock, self._tried_probe, roll=roll)

    def get(self, name: str) -> bytes:
        """One secret's bytes.

        Raises:
            AgentError: no provider has it, or none answered and nothing young enough is kept.
        """
        return self.fetch(name).value.reveal()

    def own(self, name: str) -> bytes:
        """A credential of the agent's own; as `get`, and read even where the audit log refuses the
        record, which then goes to the agent's log alone: the page about a full disk must go out.
        """
        with self.because("the agent's own credential"):
            try:
                return self.get(name)
            except AuditError:
                token = self._unrecorded.set(True)
                try:
                    return self.cache.refresh(secret_name(name)).value.reveal()
                finally:
                    self._unrecorded.reset(token)

    @contextmanager
    def because(self, why: str) -> Iterator[None]:
        """Note `why` in the audit log for every read of the body."""
        token = self._why.set(why)
        try:
            yield
        finally:
            self._why.reset(token)

    def fetch(self, name: str) -> Fetched:
        """One secret through the cache, with what is known of it; raises as `get`."""
        return self.cache.get(secret_name(name))

    def fetch_all(self, *, refresh: bool = False) -> dict[str, Item]:
        """Every declared secret as a file to be, by path.

        Raises:
            AgentError: a required one is missing. `errors` then says why, name by name.
        """
        answers = self.proofs.sift(self._read_all(refresh=refresh), self._publishing.stands)
        items, found = self._publishing.items(answers)
        self.errors = found
        missing = [item.name for item in self.config.items if item.required and item.name in found]
        if any(isinstance(found[name], ProofError) for name in missing):
            # held back, while the value before stands in the directory
            there = self._publishing.found()
            held = {
                item.name
                for item in self.config.items
                if item.target in there and isinstance(found.get(item.name), ProofError)
            }
            missing = [name for name in missing if name not in held]
        if missing:
            first = found[missing[0]]
            others = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            raise type(first)(f"required secret {missing[0]}{others}: {first}", first.remedy)
        return items

    def publish(self, *, refresh: bool = False) -> Published:
        """Fetch and publish, once. An optional secret whose provider fails keeps the file it has;
        only the answer that there is no such secret takes the file away.

        Raises:
            AgentError: a required secret is missing or the directory cannot take the set; what
                was published before is as it was.
        """
        began = self._clock.monotonic()
        try:
            items = self.fetch_all(refresh=refresh)
            result = self._publishing.publish(items, self.errors)
        except AgentError:
            self._recorder.inc("secret_publishes_total", outcome="failed")
            raise
        outcome = "flipped" if result.changed else "unchanged"
        self._recorder.inc("secret_publishes_total", outcome=outcome)
        self._recorder.set("secret_generation", result.generation)
        for what in result.repaired:
            self._recorder.inc("secret_drift_repairs_total", what=what)
        if result.changed:
            took = self._clock.monotonic() - began
            self._recorder.observe("secret_publish_seconds", took)
            detail = {"generation": result.generation, "files": result.files}
            where = str(self.config.directory)
            self._record(
                [Record(self._actor, "secret.publish", where, "ok", detail, self._why.get())]
            )
        return result

    def publish_once(self, *, beside_agent: bool = False) -> Published:
        """Publish for the init container: retried with jitter until `init_deadline`.

        Beside a running agent, whose files are fresh, nothing is done. While every provider is
        down, what stands in the directory will do where `start_from_published` allows it.

        Raises:
            AgentError: the last reason, at once where waiting cannot mend it.
        """
        if beside_agent:
            standing = self._publishing.standing(Seconds(self.config.cache_ttl))
            if standing is not None:
                return standing
        with self.because("init"):
            return self._publish_in_time()

    def _publish_in_time(self) -> Published:
        give_up = self._clock.monotonic() + self.config.init_deadline
        wait, again = _FIRST_WAIT, False
        while True:
            try:
                return self.publish(refresh=again)
            except UnavailableError as error:
                standing = self._from_before(error)
                if standing is not None:
                    return standing
                left = give_up - self._clock.monotonic()
                if left <= 0:
                    raise
                pause = min(left, wait * (0.5 + 0.5 * self._roll()))
                names = sorted(self.errors)
                _log.warning(
                    "waiting for secrets",
                    names=names[:_NAMED] + (["…"] if len(names) > _NAMED else []),
                    count=len(names),
                    error=str(error),
                    seconds_left=round(left, 1),
                )
                self._sleep(pause)
                again = True
                wait = min(_LONGEST_WAIT, wait * 2)

    def _from_before(self, error: AgentError) -> Published | None:
        if not self.config.start_from_published:
            return None
        standing = self._publishing.standing(Seconds(self.config.max_stale))
        if standing is not None:
            _log.warning(
                "every provider is down; starting from the secrets published before",
                generation=standing.generation,
                error=str(error),
            )
            detail = {"generation": standing.generation, "files": standing.files}
            where = str(self.config.directory)
            self._record([Record(self._actor, "secret.keep", where, "stale", detail, "init")])
        return standing

    def found(self) -> dict[str, dict[str, object]]:
        """What is known of the files published before, by an item's path."""
        return self._publishing.found()

    def next_expiry(self) -> Seconds:
        """Seconds until the first declared secret is to be asked for again; 0: now."""
        first = min(
            (self.cache.due_in(secret_name(item.name)) for item in self.config.items),
            default=Seconds(self.config.cache_ttl),
        )
        return min(first, self.proofs.due_in())

    def unrenewed(self) -> dict[SecretName, AgentError]:
        """Declared secrets whose provider failed when last asked, though an old value serves."""
        found: dict[SecretName, AgentError] = {}
        for item in self.config.items:
            entry = self.cache.peek(secret_name(item.name))
            if entry is not None and entry.fetched is not None and entry.error is not None:
                found[item.name] = afresh(entry.error)
        return found

    def _read_all(self, *, refresh: bool) -> dict[SecretName, Fetched | AgentError]:
        """Each declared secret once; what the providers must be asked for, in one go."""
        names = list(dict.fromkeys(secret_name(item.name) for item in self.config.items))
        due = [name for name in names if refresh or self.cache.due_in(name) <= 0]
        answers: dict[SecretName, Fetched | AgentError] = {}
        if refresh:
            self.cache.doubt(but=names)  # the agent's own credentials follow as well
        if len(due) > 1:
            answers = self.cache.refresh_many(due, self._load_many)
        elif due:
            answers = {due[0]: _outcome(self.cache.refresh, due[0])}
        for name in names:
            if name not in answers:
                answers[name] = _outcome(self.cache.get, name)
        return answers

    def _load(self, name: SecretName) -> Fetched:
        answer = self._load_many([name])[name]
        if isinstance(answer, AgentError):
            raise answer
        return answer

    def _load_many(self, names: Sequence[SecretName]) -> Mapping[SecretName, Fetched | AgentError]:
        """Ask the chain, and record every try in one go before anybody sees a value."""
        tries: list[Record] = []
        token = self._tries.set(tries)
        try:
            answers = self.chain.read_many(names)
        finally:
            self._tries.reset(token)
        for answer in answers.values():
            if isinstance(answer, Fetched):
                self._redactor.learn(answer.name, answer.value.reveal())
                detail = {"provider": answer.provider, "version": answer.version}
                tries.append(self._tried(answer.name, "ok", detail))
        self._record(tries)
        return answers

    def _tried_probe(self, _name: SecretName, outcome: str) -> None:
        self._recorder.inc("secret_proofs_total", outcome=outcome)

    def _told(self, provider: str, name: SecretName, outcome: str) -> None:
        self._recorder.inc("secret_reads_total", provider=provider, outcome=outcome)
        if outcome == "denied":
            self.denied[name] = provider
        elif outcome == "ok":
            self.denied.pop(name, None)
        if outcome not in ("ok", SKIPPED):
            self._tries.get().append(self._tried(name, outcome, {"provider": provider}))

    def _tried(self, name: SecretName, outcome: str, detail: Mapping[str, Any]) -> Record:
        return Record(self._actor, "secret.read", name, outcome, detail, self._why.get())

    def _record(self, records: Sequence[Record]) -> None:
        """Raises AuditError where the log does not take them and the access must not be."""
        if self._audit is None or not records:
            return
        try:
            self._audit.append_many(records)
        except AuditError as error:
            if self._audit.fail_closed and not self._unrecorded.get():
                raise
            for record in records:
                _log.error(
                    "secrets are used without a record in the audit log",
                    action=record.action,
                    secret=record.subject,
                    outcome=record.outcome,
                    **record.detail,
                    error=error.told(),
                )


def _outcome(read: Callable[[SecretName], Fetched], name: SecretName) -> Fetched | AgentError:
    try:
        return read(name)
    except AgentError as error:
        return error
