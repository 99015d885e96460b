"""The library calls that the trading system's earlier scripts make, kept as they make them.

    from agent.bundles.manager import create_blue_green_deployment

    deployments = create_blue_green_deployment("/opt/intradayjules/models")
    record = deployments.deploy_bundle("v2025-07-08", Path("build/v2025-07-08"))
    deployments.rollback_deployment()

Same names, arguments and results, on this agent's staging and flip: what is deployed is copied and
hashed, the links move atomically, versions never change once they are here. Two things differ, and
both are safer: a version that exists already is reused when its content is the same and refused
when it is not (it is never deleted under a reader's feet), and `force` skips the judgement of
content (pickles, YAML), not the health check. Records are files in `deployments/`, as before.
Beside a running agent use `jules-agent bundle deploy`: the agent sees a flip made here as somebody
else's.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from agent import fs
from agent.bundles.errors import RolloutError
from agent.bundles.flip import back, forward, nothing_live, set_previous, settle_left
from agent.bundles.layout import Layout
from agent.bundles.manifest import check_version
from agent.bundles.staging import Draft, copy, discard, keep, prove
from agent.bundles.stores.single import SingleFolder
from agent.bundles.verified import Verified, verify
from agent.clock import Clock, SystemClock
from agent.configpod import Limits, TraderHealth
from agent.errors import AgentError
from agent.telemetry.logs import get_logger
from agent.units import Monotonic, Seconds, Version

_log = get_logger(__name__)

_SETTLE = Seconds(0.5)
DEFAULT_ROOT = "/opt/intradayjules/models"
DEFAULT_HEALTH = "http://localhost:8000/health"


class DeploymentStatus(Enum):
    """Deployment status."""

    PENDING = "pending"
    VALIDATING = "validating"
    DEPLOYING = "deploying"
    ACTIVE = "active"
    FAILED = "failed"
    ROLLED_BACK = "rolled_back"


class HealthCheckStatus(Enum):
    """Health check status."""

    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    UNKNOWN = "unknown"


@dataclass
class DeploymentRecord:
    """One deployment or rollback."""

    deployment_id: str
    bundle_version: str
    status: DeploymentStatus
    started_at: float
    completed_at: float | None = None
    previous_version: str | None = None
    health_checks: list[dict[str, Any]] = field(default_factory=list)
    error_message: str | None = None
    rollback_available: bool = False

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, with times as text besides."""
        return {
            **asdict(self),
            "status": self.status.value,
            "started_at_iso": _iso(self.started_at),
            "completed_at_iso": _iso(self.completed_at) if self.completed_at else None,
        }


class BlueGreenDeployment:
    """Deployments below one root, done by the calling process."""

    def __init__(
        self,
        deployment_root: str | Path,
        current_symlink: str = "current",
        health_check_url: str = DEFAULT_HEALTH,
        *,
        clock: Clock | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Make the folders that are missing.

        Raises:
            RolloutError: the root cannot be written, or the link has another name than `current`.
        """
        if current_symlink != "current":
            raise RolloutError(
                f"the live link is `current`, not {current_symlink!r}", "leave the name out"
            )
        self.deployment_root = Path(deployment_root).absolute()
        self.health_check_url = health_check_url
        self.health_check_timeout = 30.0
        self.health_check_retries = 3
        self.health_check_interval = 5.0
        self._layout = Layout(self.deployment_root)
        self._clock = clock or SystemClock()
        self._sleep = sleep
        self._verified = Verified()
        self._last_flip: Monotonic | None = None
        self._layout.prepare()
        self.current_symlink = self._layout.current
        self.bundles_dir = self._layout.bundles
        self.deployments_dir = self.deployment_root / "deployments"
        fs.make_dirs_durable(self.deployments_dir)

    # -- the calls ----------------------------------------------------------------------------

    def deploy_bundle(
        self, bundle_version: str, bundle_path: str | Path, force: bool = False
    ) -> DeploymentRecord:
        """Copy, validate, flip, ask the trader's health; put the old version back if it is unwell.

        Args:
            bundle_version: the version's name.
            bundle_path: the bundle's folder.
            force: skip the judgement of content.

        Returns:
            The record; what went wrong is its `error_message`, never an exception.
        """
        record = self._begin(f"deploy_{bundle_version}", bundle_version)
        source = Path(os.path.realpath(bundle_path))

        def deploy() -> None:
            version = check_version(bundle_version)
            with self._layout.lock(f"a deployment below {self.deployment_root}"):
                self._save(record, DeploymentStatus.VALIDATING)
                draft = self._stage(version, source, judged=not force)
                self._save(record, DeploymentStatus.DEPLOYING)
                live, previous = self._layout.live(), self._layout.version_at(self._layout.previous)
                self._settle()
                forward(self._layout, version)
                if not self._healthy(record):
                    self._undo(version, live, previous, draft)
                    raise RolloutError("Health checks failed after deployment")

        return self._end(record, deploy)

    def rollback_deployment(self, target_version: str | None = None) -> DeploymentRecord:
        """Flip back to `target_version`, or to the last version that was active before."""
        record = self._begin("rollback", target_version or "unknown")
        target = target_version or self._get_previous_version()
        if target is None:
            return self._fail(record, "No previous version available for rollback", kept=False)
        record.bundle_version = target

        def roll_back() -> None:
            version = check_version(target)
            if not self._layout.folder(version).is_dir():
                raise RolloutError(f"Target version {target} not found")
            with self._layout.lock(f"a rollback below {self.deployment_root}"):
                self._save(record, DeploymentStatus.DEPLOYING)
                manifest = self._layout.require(version)
                verify(self._layout.folder(version), manifest, self._verified)
                live, previous = self._layout.live(), self._layout.version_at(self._layout.previous)
                self._settle()
                back(self._layout, version, None if previous == version else previous)
                if not self._healthy(record):
                    if live is not None and live != version:
                        self._settle()
                        back(self._layout, live, previous)
                    raise RolloutError("Health checks failed after deployment")

        return self._end(record, roll_back)

    def get_deployment_status(self) -> dict[str, Any]:
        """What is live, what is here, what was done last."""
        live = self._layout.live()
        current = live if live is not None and self._layout.folder(live).is_dir() else None
        recent = self.list_deployments()[:5]
        active = [item for item in recent if item.status is DeploymentStatus.ACTIVE]
        return {
            "current_version": current,
            "current_bundle_path": os.path.realpath(self.current_symlink) if current else None,
            "deployment_root": str(self.deployment_root),
            "available_bundles": list(self._layout.versions()),
            "recent_deployments": [item.to_dict() for item in recent],
            "rollback_available": len(active) > 1,
        }

    def list_deployments(self) -> list[DeploymentRecord]:
        """Every record, newest first. A record that cannot be read is logged and left out."""
        found = []
        for path in self.deployments_dir.glob("*.json"):
            try:
                found.append(_record(json.loads(path.read_bytes())))
            except (OSError, ValueError, KeyError, TypeError) as error:
                _log.warning("a deployment record cannot be read", path=str(path), why=str(error))
        return sorted(found, key=lambda item: item.started_at, reverse=True)

    # -- how ----------------------------------------------------------------------------------

    def _stage(self, version: Version, source: Path, *, judged: bool) -> Draft:
        limits = Limits()
        draft = copy(
            self._layout,
            SingleFolder(source, max_files=limits.max_files),
            version,
            limits=limits,
            manifest_required=False,
            verified=self._verified,
        )
        try:
            if judged:
                prove(draft, limits=limits)
            keep(self._layout, draft)
        except BaseException:
            discard(draft)
            raise
        return draft

    def _undo(
        self, version: Version, live: Version | None, previous: Version | None, draft: Draft
    ) -> None:
        """Back to how it was; a version that was brought for this is taken away again."""
        self._settle()
        if live is None:
            nothing_live(self._layout)
            set_previous(self._layout, previous)
        elif live != version:
            back(self._layout, live, previous)
        if draft.fresh and live != version:
            aside = self._layout.staging / f"{version}.undone-{os.getpid()}"
            os.chmod(self._layout.folder(version), 0o700)
            fs.rename_durable(self._layout.folder(version), aside)
            fs.remove_tree(aside)

    def _settle(self) -> None:
        now = self._clock.monotonic()
        if self._last_flip is not None:
            left = settle_left(self._last_flip, now, _SETTLE)
            if left:
                self._sleep(left)
        self._last_flip = self._clock.monotonic()

    def _healthy(self, record: DeploymentRecord) -> bool:
        from agent.bundles.health import TraderProbe

        probe = TraderProbe(
            TraderHealth(url=self.health_check_url, timeout=Seconds(self.health_check_timeout))
        )
        try:
            for attempt in range(self.health_check_retries):
                if attempt:
                    self._sleep(self.health_check_interval)
                answer = probe.ask()
                unwell = HealthCheckStatus.UNHEALTHY if answer.heard else HealthCheckStatus.UNKNOWN
                status = HealthCheckStatus.HEALTHY if answer.ok else unwell
                data: dict[str, Any] = {"url": self.health_check_url}
                if answer.why:
                    data["error"] = answer.why
                if answer.version:
                    data["model_version"] = answer.version
                record.health_checks.append(
                    {
                        "attempt": attempt + 1,
                        "timestamp": self._clock.now(),
                        "status": status.value,
                        "data": data,
                    }
                )
                if answer.ok:
                    return True
            return False
        finally:
            probe.close()

    def _begin(self, prefix: str, version: str) -> DeploymentRecord:
        now = self._clock.now()
        number = f"{prefix.replace('/', '_')}_{int(now)}"
        suffix = 1
        name = number
        while (self.deployments_dir / f"{name}.json").exists():
            suffix += 1
            name = f"{number}_{suffix}"
        return DeploymentRecord(
            deployment_id=name,
            bundle_version=version,
            status=DeploymentStatus.PENDING,
            started_at=now,
            previous_version=self._layout.live(),
            rollback_available=self.current_symlink.exists(),
        )

    def _end(self, record: DeploymentRecord, work: Callable[[], None]) -> DeploymentRecord:
        try:
            work()
        except AgentError as error:
            return self._fail(record, str(error))
        except OSError as error:
            return self._fail(record, f"Deployment exception: {error}")
        record.completed_at = self._clock.now()
        self._save(record, DeploymentStatus.ACTIVE)
        return record

    def _fail(self, record: DeploymentRecord, why: str, *, kept: bool = True) -> DeploymentRecord:
        record.error_message = why
        record.completed_at = self._clock.now()
        record.status = DeploymentStatus.FAILED
        if kept:
            self._save(record, DeploymentStatus.FAILED)
        return record

    def _save(self, record: DeploymentRecord, status: DeploymentStatus) -> None:
        record.status = status
        path = self.deployments_dir / f"{record.deployment_id}.json"
        try:
            fs.write_durable(path, json.dumps(record.to_dict(), indent=2).encode(), 0o644)
        except OSError as error:
            _log.error("a deployment record was not written", path=str(path), why=str(error))

    def _get_previous_version(self) -> str | None:
        """The link first; then, for roots that the earlier scripts made, their records."""
        live = self._layout.live()
        linked = self._layout.version_at(self._layout.previous)
        if linked is not None and linked != live:
            return linked
        for item in self.list_deployments():
            version = Version(item.bundle_version)
            here = version != live and self._layout.folder(version).is_dir()
            if here and item.status is DeploymentStatus.ACTIVE:
                return version
        return None


def create_blue_green_deployment(deployment_root: str = DEFAULT_ROOT) -> BlueGreenDeployment:
    """Deployments below `deployment_root`."""
    return BlueGreenDeployment(Path(deployment_root))


def _record(tree: dict[str, Any]) -> DeploymentRecord:
    return DeploymentRecord(
        deployment_id=tree["deployment_id"],
        bundle_version=tree["bundle_version"],
        status=DeploymentStatus(tree["status"]),
        started_at=tree["started_at"],
        completed_at=tree.get("completed_at"),
        previous_version=tree.get("previous_version"),
        health_checks=tree.get("health_checks", []),
        error_message=tree.get("error_message"),
        rollback_available=tree.get("rollback_available", False),
    )


def _iso(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at))
