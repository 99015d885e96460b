"""The synchronous core: provider → chain → cache → generation. Used by `init`, the job, the verbs.

No event loop here, so that the init container pays for none. Every access is audited (who, what,
version, provider, outcome) and counted; every value is made known to the redactor before anyone
else sees it. An audit log that cannot be written stops the access: a secret handed out without a
record is worse than a refresh that comes late. One reader is excepted: the agent itself, for the
credentials by which it pages (`own`). A full disk is what pages are for.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

from agent.audit import AuditError, AuditLog
from agent.clock import Clock
from agent.config import SecretItem, Secrets
from agent.configbackends import DEFAULT_ORDER
from agent.errors import AgentError
from agent.secrets.cache import Cache
from agent.secrets.chain import SKIPPED, Chain, Policy
from agent.secrets.errors import NotFoundError, ShapeError, UnavailableError, afresh
from agent.secrets.generation import Published, Publisher
from agent.secrets.model import Fetched, secret_name
from agent.secrets.providers.base import Backend, Provider
from agent.secrets.providers.local import LocalStore
from agent.secrets.tree import Item
from agent.telemetry.logs import get_logger
from agent.telemetry.metrics import Recorder
from agent.telemetry.redaction import Redactor
from agent.units import Seconds, SecretName

_log = get_logger(__name__)

_FIRST_WAIT = 0.2
_LONGEST_WAIT = 3.0


def local_store(config: Secrets, clock: Clock) -> LocalStore:
    """The local provider as configured."""
    local = config.local
    return LocalStore(
        local.path, key_file=local.key_file, passphrase_file=local.passphrase_file, clock=clock
    )


def configured(config: Secrets, environment: str, clock: Clock) -> list[Provider | Backend]:
    """The configured providers, in order; the code of one that is not is never imported."""
    made: list[Provider | Backend] = []
    for name in config.chain.order or DEFAULT_ORDER[environment]:
        if name == "local":
            made.append(local_store(config, clock))
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
        sleep: Callable[[float], None] = time.sleep,
        roll: Callable[[], float] = random.random,
    ) -> None:
        """Nothing is read yet. `providers` overrides those of the configuration."""
        self.config = config
        self.environment = environment
        self._audit = audit
        self._recorder = recorder
        self._clock = clock
        self._redactor = redactor
        self._sleep = sleep
        self._roll = roll
        self._unrecorded: ContextVar[bool] = ContextVar("unrecorded", default=False)
        self.denied: dict[SecretName, str] = {}
        self.chain = Chain(
            providers or configured(config, environment, clock),
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
        )
        self.publisher = publisher(config, clock)
        self.errors: dict[SecretName, AgentError] = {}

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
        try:
            return self.get(name)
        except AuditError:
            token = self._unrecorded.set(True)
            try:
                return self.cache.refresh(secret_name(name)).value.reveal()
            finally:
                self._unrecorded.reset(token)

    def fetch(self, name: str) -> Fetched:
        """One secret through the cache, with what is known of it; raises as `get`."""
        return self.cache.get(secret_name(name))

    def fetch_all(self, *, refresh: bool = False) -> dict[str, Item]:
        """Every declared secret as a file to be, by path.

        Raises:
            AgentError: a required one is missing. `errors` then says why, name by name.
        """
        items: dict[str, Item] = {}
        found: dict[SecretName, AgentError] = {}
        answers = self._read_all(refresh=refresh)
        for item in self.config.items:
            answer = answers[item.name]
            try:
                if isinstance(answer, AgentError):
                    raise answer
                items[item.target] = as_item(item, answer)
            except AgentError as error:
                found[item.name] = afresh(error)
        self.errors = found
        missing = [item.name for item in self.config.items if item.required and item.name in found]
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
            result = self.publisher.publish(items, keep=self._not_answered())
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
            self._record("secret.publish", str(self.config.directory), "ok", result)
        return result

    def publish_once(self) -> Published:
        """Publish for the init container: retried with jitter until `init_deadline`.

        Raises:
            AgentError: the last reason, at once where waiting cannot mend it.
        """
        give_up = self._clock.monotonic() + self.config.init_deadline
        wait, again = _FIRST_WAIT, False
        while True:
            try:
                return self.publish(refresh=again)
            except UnavailableError as error:
                left = give_up - self._clock.monotonic()
                if left <= 0:
                    raise
                pause = min(left, wait * (0.5 + 0.5 * self._roll()))
                _log.warning("waiting for secrets", error=str(error), seconds_left=round(left, 1))
                self._sleep(pause)
                again = True
                wait = min(_LONGEST_WAIT, wait * 2)

    def next_expiry(self) -> Seconds:
        """Seconds until the first declared secret is to be asked for again; 0: now."""
        return min(
            (self.cache.due_in(secret_name(item.name)) for item in self.config.items),
            default=Seconds(self.config.cache_ttl),
        )

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
        if len(due) > 1:
            answers = self.cache.refresh_many(due, self._load_many)
        elif due and refresh:
            answers = {due[0]: _outcome(self.cache.refresh, due[0])}
        for name in names:
            if name not in answers:
                answers[name] = _outcome(self.cache.get, name)
        return answers

    def _not_answered(self) -> list[str]:
        failed = {n for n, error in self.errors.items() if not isinstance(error, NotFoundError)}
        return [item.target for item in self.config.items if item.name in failed]

    def _load(self, name: SecretName) -> Fetched:
        return self._learnt(self.chain.read(name))

    def _load_many(self, names: Sequence[SecretName]) -> Mapping[SecretName, Fetched | AgentError]:
        answers = self.chain.read_many(names)
        for answer in answers.values():
            if isinstance(answer, Fetched):
                self._learnt(answer)
        return answers

    def _learnt(self, fetched: Fetched) -> Fetched:
        self._redactor.learn(fetched.name, fetched.value.reveal())
        detail = {"provider": fetched.provider, "version": fetched.version}
        self._read(fetched.name, "ok", detail)
        return fetched

    def _told(self, provider: str, name: SecretName, outcome: str) -> None:
        self._recorder.inc("secret_reads_total", provider=provider, outcome=outcome)
        if outcome == "denied":
            self.denied[name] = provider
        elif outcome == "ok":
            self.denied.pop(name, None)
        if outcome not in ("ok", SKIPPED):
            self._read(name, outcome, {"provider": provider})

    def _read(self, name: SecretName, outcome: str, detail: Mapping[str, Any]) -> None:
        """Record a read, or how it failed. Raises AuditError where the log does not take it."""
        if self._audit is None:
            return
        try:
            self._audit.append("agent", "secret.read", name, outcome, detail)
        except AuditError as error:
            if not self._unrecorded.get():
                raise
            _log.error(
                "a secret is read without a record in the audit log",
                secret=name,
                outcome=outcome,
                **detail,
                error=error.told(),
            )

    def _record(self, action: str, subject: str, outcome: str, result: Published) -> None:
        if self._audit is not None:
            detail = {"generation": result.generation, "files": result.files}
            self._audit.append("agent", action, subject, outcome, detail)


def publisher(config: Secrets, clock: Clock) -> Publisher:
    """The publisher of the configured directory."""
    return Publisher(
        directory=config.directory,
        clock=clock,
        file_mode=config.file_mode,
        dir_mode=config.dir_mode,
        keep=config.keep_generations,
        keep_for=Seconds(config.keep_for),
        allow_disk=config.allow_disk,
    )


def as_item(item: SecretItem, fetched: Fetched) -> Item:
    """The file that `item` asks for, from the fetched value.

    Raises:
        ShapeError: the format is json and the value is not.
    """
    data = fetched.value.reveal()
    if item.format == "json" or fetched.kind == "json":
        tree = _tree(item, data)
        if item.format == "raw" and isinstance(tree, str):
            data = tree.encode("utf-8", "surrogatepass")  # what a program expects of a key file
    return Item(
        path=item.target,
        data=data,
        name=item.name,
        version=fetched.version,
        provider=fetched.provider,
        fetched_at=fetched.fetched_at,
    )


def _tree(item: SecretItem, data: bytes) -> object:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise ShapeError(
            f"secret {item.name} is to be written as {item.format} and is not JSON",
            "store it as JSON; plain bytes are stored with --raw and published with format: raw",
        ) from None


def _outcome(read: Callable[[SecretName], Fetched], name: SecretName) -> Fetched | AgentError:
    try:
        return read(name)
    except AgentError as error:
        return error
