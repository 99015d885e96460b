"""Vault or OpenBao as a provider: KV reads over kept connections, leases, one sentinel to follow.

A read is one request. Many are read over up to four connections at once; the first that says "not
now" spares the rest the wait. `marker` asks for the sentinel's metadata, which has no value in it,
and looks after the token and the leases.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlencode

from agent.clock import Clock, SystemClock
from agent.configbackends import Vault
from agent.secrets.errors import NotFoundError, SecretsError, UnavailableError, afresh
from agent.secrets.model import Fetched, Kind, SecretType, SecretValue
from agent.secrets.providers.deadline import Deadline
from agent.secrets.providers.fanout import fan_out
from agent.secrets.providers.http import HttpClient
from agent.secrets.providers.tls import TlsContexts
from agent.secrets.providers.vault import kv
from agent.secrets.providers.vault.client import RefusedError, VaultClient, malformed
from agent.secrets.providers.vault.leases import Leases
from agent.secrets.providers.vault.methods import method_for
from agent.secrets.providers.vault.session import LoginMethod, Session
from agent.units import Seconds, SecretName

_WORKERS = 4
_MANAGE = Seconds(10.0)


class VaultProvider:
    """Provider `vault`."""

    name = "vault"

    def __init__(
        self, config: Vault, *, clock: Clock | None = None, method: LoginMethod | None = None
    ) -> None:
        """Nothing is asked yet. `method` overrides the configured login."""
        clock = clock or SystemClock()
        tls = TlsContexts(
            ca_file=config.tls.ca_file,
            cert_file=config.tls.cert_file,
            key_file=config.tls.key_file,
            server_name=config.tls.server_name,
        )
        self._config, self._clock = config, clock
        self._client = VaultClient(HttpClient(config.url, tls=tls), config.namespace)
        self.session = Session(self._client, method or method_for(config.auth), clock)
        self.leases = Leases(self.session, clock, self._client.shown)

    def read(self, name: SecretName, deadline: Deadline) -> Fetched:
        """The current version, or the pinned one. Raises as `Provider.read`."""
        path = self._config.leased.get(name)
        if path is not None:
            return self.leases.read(name, path, deadline)
        pinned = self._config.pins.get(name)
        return self.read_version(name, pinned, deadline)

    def read_version(self, name: SecretName, version: int | None, deadline: Deadline) -> Fetched:
        """One version of a KV secret; None is the newest. Raises as `Provider.read`."""
        key = self._key(name)
        path = kv.data_path(self._config.mount, self._config.kv, key)
        query = urlencode({"version": version}) if version is not None else ""
        answer = self.session.call("GET", path, deadline=deadline, query=query)
        try:
            found = kv.parse_v2(answer, name) if self._config.kv == 2 else kv.parse_v1(answer)
        except kv.MalformedError:
            raise malformed(self._client.shown, path) from None
        return Fetched(
            name=name,
            value=SecretValue(found.data),
            version=found.version,
            provider=self.name,
            fetched_at=self._clock.now(),
            kind=found.kind,
            secret_type=kv.secret_type(found.custom),
            description=found.custom.get("description", ""),
            created_at=found.created_at,
        )

    def read_many(
        self, names: Sequence[SecretName], deadline: Deadline
    ) -> dict[SecretName, Fetched | SecretsError]:
        """Each name's value or its error; never raises SecretsError itself."""
        answers: dict[SecretName, Fetched | SecretsError] = {}
        down: list[SecretsError] = []

        def one(name: SecretName) -> None:
            try:
                answers[name] = afresh(down[0]) if down else self.read(name, deadline)
            except UnavailableError as error:
                down.append(error)
                answers[name] = error
            except SecretsError as error:
                answers[name] = error

        fan_out(one, names, min(_WORKERS, 1 + len(names) // 8))
        return answers

    def marker(self, deadline: Deadline) -> str:
        """Changes when the sentinel was written or a lease must be replaced.

        Raises:
            SecretsError: Vault could not be asked.
        """
        self.session.maintain(deadline)
        self.leases.maintain(deadline)
        seen = f"leases={self.leases.serial}"
        if self._config.sentinel is None:
            return seen
        try:
            return f"{seen},{self.current_version(self._config.sentinel, deadline)}"
        except NotFoundError:
            return f"{seen},absent"

    def current_version(self, name: SecretName, deadline: Deadline) -> str:
        """The newest version by KV v2 metadata, which holds no value. Raises as `read`."""
        path = kv.metadata_path(self._config.mount, self._key(name))
        try:
            return kv.parse_version(self.session.call("GET", path, deadline=deadline))
        except kv.MalformedError:
            raise malformed(self._client.shown, path) from None

    def write(
        self,
        name: SecretName,
        value: bytes,
        *,
        kind: Kind = "json",
        secret_type: SecretType = SecretType.API_KEY,
        description: str = "",
        cas: int | None = None,
    ) -> str:
        """Store a new version; returns it.

        Args:
            cas: the version that must be the current one, 0 for none (KV v2).

        Raises:
            SecretsError: nothing was written. `RefusedError` where `cas` does not fit.
        """
        config, deadline = self._config, Deadline(_MANAGE)
        path = kv.data_path(config.mount, config.kv, self._key(name))
        tree = kv.to_object(value, kind)
        if config.kv == 1:
            self.session.call("POST", path, deadline=deadline, body=tree, repeatable=True)
            return kv.UNVERSIONED
        body = {"data": tree, "options": {} if cas is None else {"cas": cas}}
        try:
            answer = self.session.call("POST", path, deadline=deadline, body=body)
        except RefusedError as error:
            if cas is None:
                raise
            raise RefusedError(
                f"{name} in vault is no longer at version {cas}", "read it again, then write"
            ) from error
        custom = {"type": secret_type.value}
        if description:  # an empty value is refused
            custom["description"] = description
        about = kv.metadata_path(config.mount, self._key(name))
        self.session.call(
            "POST", about, deadline=deadline, body={"custom_metadata": custom}, repeatable=True
        )
        version = answer.get("data", {}).get("version")
        if not isinstance(version, int):
            raise malformed(self._client.shown, path)
        return str(version)

    def reissue(self, name: SecretName) -> bool:
        """Have a leased credential issued anew at its next read; False if `name` is not leased."""
        if name not in self._config.leased:
            return False
        self.leases.reissue(name)
        return True

    def close(self) -> None:
        """Close idle connections. Leases and tokens live on until their time is over."""
        self._client.close()

    def _key(self, name: SecretName) -> str:
        return (self._config.prefix + name).strip("/")
