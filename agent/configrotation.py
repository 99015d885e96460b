"""The options of a rotation: how a new value is proven, and who is told of it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from agent.configtypes import FilePath, HttpUrl, Name, Positive, Section
from agent.units import Seconds

HostPort = Annotated[str, Field(pattern=r"^(\[[0-9a-fA-F:]+\]|[A-Za-z0-9_.-]+)(:[0-9]{1,5})?$")]

_OPTIONS: dict[str, tuple[str, ...]] = {
    "tcp": ("address",),
    "tls": ("address", "ca_file"),
    "http": ("url", "auth", "ca_file"),
    "postgres": ("address", "ca_file", "database", "tls"),
    "redis": ("address", "ca_file", "tls"),
    "command": ("command",),
}


class Probe(Section):
    """How a new value is proven before it is published."""

    kind: Literal["tcp", "tls", "http", "postgres", "redis", "command"] = Field(
        description="tcp, tls: connect; http: call; postgres, redis: log in; command: run."
    )
    address: HostPort | None = Field(
        None, description="HOST:PORT; default: the fields `host` and `port` of the value."
    )
    url: HttpUrl | None = Field(None, description="http: address that must answer with 2xx.")
    auth: Literal["bearer", "basic", "none"] = Field(
        "bearer",
        description="http: how the value is sent: its text, `token` or `key` as a bearer; "
        "`username` and `password` as basic; or not at all.",
    )
    database: str | None = Field(
        None, description="postgres: database; default: the field `database`, or `postgres`."
    )
    tls: bool | None = Field(
        None,
        description="postgres, redis: whether by TLS; default: only where the field `ssl_mode` "
        "demands it.",
    )
    ca_file: FilePath | None = Field(
        None, description="PEM of the authorities that count; default: the system's."
    )
    command: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="Program and arguments; the value is on its standard input, and 0 is success.",
    )
    deadline: Positive = Field(Seconds(5.0), description="Longest that one try may take.")
    first: Literal["publish", "refuse"] = Field(
        "publish",
        description="What is done with a value that fails when no earlier one is published.",
    )

    @model_validator(mode="after")
    def _fits_kind(self) -> Probe:
        allowed = (*_OPTIONS[self.kind], "kind", "deadline", "first")
        for option in sorted(self.model_fields_set):
            if option not in allowed:
                raise ValueError(f"`{option}` means nothing to a probe of kind {self.kind}")
        if self.kind == "http" and self.url is None:
            raise ValueError("a probe of kind http needs `url`")
        if self.kind == "command":
            if self.command is None:
                raise ValueError("a probe of kind command needs `command`")
            if not self.command[0].startswith("/"):
                raise ValueError("the command's program is not an absolute path")
        return self


class Process(Section):
    """A signal to a process of this pod."""

    name: Literal["SIGHUP", "SIGUSR1", "SIGUSR2", "SIGTERM", "SIGWINCH"] = Field(
        "SIGHUP", description="SIGHUP, SIGUSR1, SIGUSR2, SIGTERM or SIGWINCH."
    )
    pid_file: FilePath | None = Field(None, description="File that holds the process's number.")
    exe: FilePath | None = Field(
        None, description="Program file: every process of this pod that runs it gets the signal."
    )

    @model_validator(mode="after")
    def _one(self) -> Process:
        if (self.pid_file is None) == (self.exe is None):
            raise ValueError("name exactly one of `pid_file`, `exe`")
        return self


class OnChange(Section):
    """Who is told of a new generation of secrets. Exactly one of the three ways."""

    command: tuple[str, ...] | None = Field(
        None, min_length=1, description="Program and arguments; no shell, a clean environment."
    )
    url: HttpUrl | None = Field(None, description="Address that the generation is posted to.")
    signal: Process | None = None
    names: tuple[Name, ...] = Field(
        (), description="Only where one of these secrets has changed; default: any."
    )
    deadline: Positive = Field(Seconds(10.0), description="Longest that one try may take.")
    tries: int = Field(5, ge=1, le=100, description="Tries in all, with a growing pause.")

    @model_validator(mode="after")
    def _exactly_one(self) -> OnChange:
        if sum(way is not None for way in (self.command, self.url, self.signal)) != 1:
            raise ValueError("name exactly one of `command`, `url`, `signal`")
        if self.command and not self.command[0].startswith("/"):
            raise ValueError("the command's program is not an absolute path")
        return self
