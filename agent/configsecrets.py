"""The section of job one: which secrets, from where, in which form; and that of the audit log."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from agent.configbackends import Aws, ChainConfig, Vault
from agent.configrotation import OnChange, Probe
from agent.configtypes import Duration, FilePath, Mode, Name, Positive, Section, Size, left_out
from agent.units import AbsolutePath, Bytes, Seconds

Account = Annotated[str, Field(pattern=r"^([a-z_][a-z0-9_-]*\$?|\d{1,10})$", max_length=32)]
"""A user or group, by name or number."""

TypeName = Literal[
    "database_password",
    "s3_credentials",
    "broker_credentials",
    "api_key",
    "encryption_key",
    "jwt_secret",
    "webhook_token",
]

_SUFFIX = {"json": ".json", "env": ".env"}


class LocalStore(Section):
    """The local AES-256-GCM store."""

    path: FilePath = Field(
        AbsolutePath(Path("/var/lib/jules-agent/secrets.enc")), description="The encrypted file."
    )
    key_file: FilePath | None = Field(
        None, description="32 bytes, raw or as hex or base64; readable by its owner alone."
    )
    passphrase_file: FilePath | None = Field(
        None, description="A passphrase, from which scrypt derives the key; readable by its owner."
    )
    next_key_file: FilePath | None = Field(
        None,
        description="A second key that is read as well: `secrets rekey` moves the store to it "
        "while the agent runs.",
    )

    @model_validator(mode="after")
    def _one_key(self) -> LocalStore:
        if self.key_file is not None and self.passphrase_file is not None:
            raise ValueError("name `key_file` or `passphrase_file`, not both")
        return self


class SecretItem(Section):
    """One secret that the trader needs, and how it is written."""

    name: Name
    format: Literal["json", "env", "raw", "fields", "template"] = "json"
    path: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*$",
        description="File below the directory (a folder for fields); default: the name, with .json "
        "for json and .env for env. A template needs one.",
    )
    template: FilePath | None = Field(
        None, description="The jinja2 template of `format: template`; it holds no secret itself."
    )
    type: TypeName | None = Field(
        None, description="What it is: a value that lacks its type's fields is refused."
    )
    required: bool = Field(True, description="Whether readiness waits for it.")
    mode: Mode | None = Field(
        None, validate_default=False, description="Mode of its files; default: `secrets.file_mode`."
    )
    owner: Account | None = Field(
        None, description="User that its files belong to; default: `secrets.owner`."
    )
    group: Account | None = Field(None, description="Group of its files; default: `secrets.group`.")
    overlap: Duration | None = Field(
        None, description="How long its value before stays readable; default: `secrets.overlap`."
    )
    max_stale: Duration | None = Field(
        None, description="How old it may get; default: `secrets.max_stale`."
    )
    probe: Probe | None = Field(
        None, description="How a new value is proven before it is published; default: not."
    )

    @model_validator(mode="after")
    def _template_and_path(self) -> SecretItem:
        if (self.format == "template") != (self.template is not None):
            raise ValueError("`format: template` and `template` belong together")
        if self.format == "template" and self.path is None:
            raise ValueError("a template needs the `path` of the file that it makes")
        return self

    @property
    def target(self) -> str:
        """The file's path below the secrets directory; for `fields` its folder's."""
        return self.path if self.path is not None else self.name + _SUFFIX.get(self.format, "")


class Secrets(Section):
    """Job one: secrets into a tmpfs, all of them in one atomic step."""

    enabled: bool = True
    directory: FilePath = AbsolutePath(Path("/run/secrets/trading"))
    allow_disk: bool = Field(
        False, description="Accept a directory that is not tmpfs; development only."
    )
    items: tuple[SecretItem, ...] = ()
    local: LocalStore = left_out()
    vault: Vault | None = Field(None, description="HashiCorp Vault or OpenBao.")
    aws: Aws | None = Field(None, description="AWS Secrets Manager.")
    chain: ChainConfig = left_out()
    cache_ttl: Positive = Seconds(300.0)
    max_stale: Duration = Field(
        Seconds(86400.0),
        description="How old the last good values may get while the provider is down.",
    )
    check_interval: Positive = Field(
        Seconds(5.0), description="How often drift and the local store's file are looked at."
    )
    init_deadline: Positive = Field(Seconds(30.0), description="Longest that `init` waits.")
    start_from_published: bool = Field(
        False,
        description="Let `init` succeed with the files that are still in the directory while every "
        "provider is down, if none is older than `max_stale`.",
    )
    wipe_on_exit: Duration | None = Field(
        None,
        description="Remove everything published this long after SIGTERM; default: never. At most "
        "`grace_period`.",
    )
    lock_memory: bool = Field(
        False,
        description="Keep the agent's memory out of swap (mlockall); needs CAP_IPC_LOCK or an "
        "unlimited RLIMIT_MEMLOCK.",
    )
    max_size: Size = Field(
        Bytes(16 * 1024**2), description="Most bytes that a generation may hold; checked before."
    )
    overlap: Duration = Field(
        Seconds(0.0),
        description="How long the value before a rotation stays readable as `PATH.previous`; "
        "`0`: not.",
    )
    on_change: tuple[OnChange, ...] = Field(
        (), description="Who is told after a new generation was published, once each."
    )
    owner: Account | None = Field(
        None,
        description="User that files and folders belong to (name or number); default: the agent's. "
        "Another one needs root.",
    )
    group: Account | None = Field(
        None, description="Group of files and folders; default: the directory's own."
    )
    file_mode: Mode = Field(
        0o400, validate_default=False, description="Mode of each published file."
    )
    dir_mode: Mode = Field(
        0o700, validate_default=False, description="Mode of each published directory."
    )
    keep_generations: int = Field(2, ge=1, le=16, description="Old generations kept for readers.")
    keep_for: Duration = Field(Seconds(60.0), description="Shortest time an old one is kept.")

    def overlap_of(self, item: SecretItem) -> Seconds:
        """How long the value before stays readable for `item`."""
        return Seconds(self.overlap if item.overlap is None else item.overlap)

    def max_stale_of(self, item: SecretItem) -> Seconds:
        """How old the value of `item` may get while its provider is down."""
        return Seconds(self.max_stale if item.max_stale is None else item.max_stale)

    @model_validator(mode="after")
    def _one_probe_a_name(self) -> Secrets:
        probed: dict[str, Probe] = {}
        for item in self.items:
            if item.probe is not None and probed.setdefault(item.name, item.probe) != item.probe:
                raise ValueError(f"{item.name} has two different probes")
        return self

    @model_validator(mode="after")
    def _distinct_targets(self) -> Secrets:
        seen: set[str] = set()
        for item in self.items:
            names = [item.target]
            if self.overlap_of(item) and item.format != "fields":
                names.append(f"{item.target}.previous")
            for name in names:
                if name in seen:
                    raise ValueError(f"two secrets would be written to {name!r}")
                seen.add(name)
        for target in seen:
            parts = target.split("/")
            for length in range(1, len(parts)):
                if "/".join(parts[:length]) in seen:
                    raise ValueError(f"{'/'.join(parts[:length])!r} would be a file and a folder")
        return self


class Audit(Section):
    """The audit log: `audit.jsonl` in the state folder, and its full predecessors."""

    max_size: Size = Field(
        Bytes(16 * 1024**2), ge=4096, description="Size at which a new file is begun."
    )
    keep: int = Field(16, ge=1, le=10000, description="Full files that are kept.")
    fail_closed: bool = Field(
        True,
        description="Refuse to read a secret whose record cannot be written, and count an "
        "unwritable log against readiness. The agent's own pager is excepted.",
    )
