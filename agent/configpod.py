"""The part of the configuration that an init container uses: everything but the alerts.

Apart from the rest because a class that pydantic never sees is one that `init` need not pay for:
the alerts' sections are a third of the tree. `agent.config` has the whole.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from agent.configbackends import DEFAULT_ORDER, is_loopback
from agent.configrollouts import Bake, FreezeWindow, OnFlip, Retention
from agent.configsecrets import Audit, Secrets
from agent.configstores import BundleStore, Trust
from agent.configtypes import Duration, FilePath, HttpUrl, Positive, Section, Size, left_out
from agent.units import AbsolutePath, Bytes, Seconds

Environment = Literal["development", "staging", "production"]


class Log(Section):
    """What is logged and how."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "console"] = "auto"


class Web(Section):
    """The face: read-only HTTP, and the admin socket for everything that changes something."""

    listen: str = Field("0.0.0.0:9900", pattern=r"^[^\s:]*:\d{1,5}$", description="HOST:PORT")
    admin_socket: FilePath | None = Field(
        None, description="Unix socket for changing verbs, mode 0600; default STATE_DIR/admin.sock."
    )


class TraderHealth(Section):
    """The trader's own /health, asked before a flip and after it."""

    url: HttpUrl = "http://localhost:8000/health"
    timeout: Positive = Seconds(2.0)
    attempts: int = Field(3, ge=1, le=100)
    interval: Duration = Seconds(1.0)
    required: tuple[str, ...] = Field(
        ("model_loaded", "risk_system_active", "database_connected"),
        description="Indicators that must be true in the answer.",
    )
    version_field: str = Field(
        "model_version", description="Field of the answer that names the version it runs."
    )
    adopt_within: Duration = Field(
        Seconds(15.0),
        description="The trader must report the new version this soon after a flip; 0: not asked.",
    )


class Limits(Section):
    """Bounds on what a bundle may be."""

    max_files: int = Field(1000, ge=4)
    max_size: Size = Bytes(8 * 1024**3)
    headroom: Size = Field(Bytes(256 * 1024**2), description="Disk left free after staging.")


class Bundles(Section):
    """Job two: model bundles, staged, proved, flipped, baked, rolled back."""

    enabled: bool = True
    root: FilePath = AbsolutePath(Path("/opt/intradayjules/models"))
    store: BundleStore | None = Field(None, description="Where desired versions come from.")
    channel: str | None = Field(
        None, pattern=r"^[A-Za-z0-9_.-]+$", description="Default: the environment's name."
    )
    require_manifest: bool | None = Field(
        None, description="Default: true in production, false elsewhere."
    )
    trust: Trust = left_out()
    health: TraderHealth = left_out()
    bake: Bake = left_out()
    freeze: tuple[FreezeWindow, ...] = Field(
        (), description="Times at which no new version goes live; a way back stays open."
    )
    on_flip: OnFlip | None = Field(None, description="How the trader is told of a flip.")
    retention: Retention = left_out()
    limits: Limits = left_out()
    settle: Duration = Field(Seconds(0.5), description="Shortest time between two flips.")


class PodConfig(Section):
    """The configuration of one agent without its `alerts`."""

    environment: Environment = "development"
    state_dir: FilePath | None = Field(
        None, description="State, lock and audit log; default BUNDLES.ROOT/.agent."
    )
    grace_period: Positive = Field(Seconds(10.0), description="Longest that a drain may take.")
    log: Log = left_out()
    web: Web = left_out()
    audit: Audit = left_out()
    secrets: Secrets = left_out()
    bundles: Bundles = left_out()

    @model_validator(mode="after")
    def _fits_environment(self) -> PodConfig:
        if self.secrets.enabled and self.secrets.allow_disk and self.environment != "development":
            raise ValueError(
                "secrets.allow_disk is for development only: mount a tmpfs on secrets.directory"
            )
        for name, url in (
            ("secrets.vault.url", self.secrets.vault.url if self.secrets.vault else None),
            ("secrets.aws.endpoint", self.secrets.aws.endpoint if self.secrets.aws else None),
        ):
            # over plain HTTP a token would be read by whoever is on the way
            plain = url is not None and url.startswith("http:") and not is_loopback(url)
            if plain and self.environment != "development":
                raise ValueError(f"{name} without TLS is for development only: use https")
        if self.secrets.wipe_on_exit is not None and self.secrets.wipe_on_exit > self.grace_period:
            raise ValueError("secrets.wipe_on_exit is longer than grace_period: nobody would wait")
        self._check_order()
        self._check_trust()
        return self

    def _check_order(self) -> None:
        """A provider that is configured and never asked is a mistake that must not be silent."""
        order = self.secrets.chain.order or DEFAULT_ORDER[self.environment]
        for name in ("vault", "aws"):
            if getattr(self.secrets, name) is not None and name not in order:
                raise ValueError(
                    f"secrets.{name} is configured, and not in the order of {self.environment}: "
                    "name it in secrets.chain.order"
                )

    def _check_trust(self) -> None:
        """Where a signature is demanded and no key could ever judge one, nothing would go live."""
        bundles = self.bundles
        demanded = bundles.trust.demanded(production=self.environment == "production")
        if bundles.enabled and bundles.store and demanded and not bundles.trust.keys:
            raise ValueError(
                "bundles.trust.keys names no key, and bundles must be signed here: name the"
                " publisher's (`jules-agent bundle new-key`), or set bundles.trust.required: false"
            )
        url = (bundles.store.url or bundles.store.endpoint) if bundles.store else None
        plain = url is not None and url.startswith("http:") and not is_loopback(url)
        if plain and not demanded and self.environment != "development":
            raise ValueError("bundles.store without TLS and without signatures: use https")

    @property
    def state_path(self) -> AbsolutePath:
        """Where state, lock and audit log are."""
        return self.state_dir or AbsolutePath(self.bundles.root / ".agent")

    @property
    def admin_socket(self) -> AbsolutePath:
        """The unix socket for changing verbs."""
        return self.web.admin_socket or AbsolutePath(self.state_path / "admin.sock")

    @property
    def channel(self) -> str:
        """Name of the channel document that this agent follows."""
        return self.bundles.channel or self.environment

    @property
    def manifest_required(self) -> bool:
        """Whether a bundle without a manifest is refused."""
        if self.bundles.require_manifest is not None:
            return self.bundles.require_manifest
        return self.environment == "production"


class InitConfig(PodConfig):
    """What `init` reads: `alerts` may be there and is left to `run` and `check` to judge."""

    alerts: Any = None
