"""The long-running agent: builds the parts, hands each what it needs of the others.

Start order:
1. state folder, its lock (one agent a folder), state file, audit log
2. the three jobs, built whole before any of them runs: a bad rule file stops the start here
3. the face and the admin socket: `/livez` answers from now on
4. the jobs, supervised
Shutdown: SIGTERM turns readiness off, stops bundles (no new flip), then secrets, then alerts, whose
drain empties the outbox as far as the grace period reaches; exit 0. A second signal exits at once.
SIGHUP reads the configuration anew and applies all of it or nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from agent import __version__, fs, roots
from agent.adminverbs import bundle_verb
from agent.alerts.engine import AlertsJob
from agent.alerts.rolledback import RolledBack
from agent.alerts.trial import send_test
from agent.audit import AuditLog
from agent.bundles.job import BundlesJob
from agent.clock import Clock, SystemClock
from agent.config import Config
from agent.configload import load_config
from agent.errors import AgentError, UsageError
from agent.health import Condition, Job, ready, recorded
from agent.reload import refuse_fixed
from agent.secrets.job import SecretsJob
from agent.state import StateDB
from agent.supervisor import Supervisor
from agent.telemetry.exporter import PrometheusRecorder
from agent.telemetry.logs import configure_logging, get_logger
from agent.telemetry.redaction import REDACTOR
from agent.units import Seconds
from agent.web.admin import AdminServer
from agent.web.routes import routes
from agent.web.server import HttpServer

T = TypeVar("T")
_log = get_logger(__name__)

_HEARTBEAT = Seconds(1.0)
_HUNG_AFTER = Seconds(10.0)
_STOP_ORDER = ("bundles", "secrets", "alerts")


class Daemon:
    """One agent. Implements the face's read side and the admin verbs."""

    def __init__(
        self, config: Config, config_path: Path | None = None, clock: Clock | None = None
    ) -> None:
        """Build everything that can be wrong; nothing runs yet.

        Raises:
            AgentError: a part refuses its configuration, or another agent holds the state folder.
        """
        self.config = config
        self._config_path = config_path
        self._clock = clock or SystemClock()
        self._started_at = self._clock.now()
        self._beat = self._clock.monotonic()
        self._latched = False
        self._draining = False
        self._reload_error: str | None = None
        self._reloads: set[asyncio.Task[None]] = set()
        self._reloading = asyncio.Lock()  # of two reloads, the one that read later wins
        self._stack = contextlib.ExitStack()
        try:
            self._open_state()
            self._build_jobs()
        except BaseException:
            self._stack.close()
            raise

    def _open_state(self) -> None:
        folder = self.config.state_path
        try:
            fs.make_dirs_durable(folder)
        except OSError as error:
            raise UsageError(
                f"state folder {folder} cannot be made: {error.strerror}",
                "make it writable for the agent's uid, or set state_dir",
            ) from error
        self._stack.enter_context(fs.lock(folder / "agent.lock", "another jules-agent run"))
        fs.sweep(folder)
        roots.hold(self._stack, self.config)
        self._db = StateDB(folder / "state.db", self._clock)
        self._stack.callback(self._db.close)
        if self._db.set_aside:
            _log.error("state file was corrupt and was set aside", kept=str(self._db.set_aside))
        self._audit = AuditLog(folder, self._clock, **self.config.audit.model_dump())
        self._stack.callback(self._audit.close)
        self._recorder = PrometheusRecorder()
        self._recorder.set("build_info", 1.0, version=__version__)
        self._supervisor = Supervisor(self._clock, self._recorder)

    def _build_jobs(self) -> None:
        config = self.config
        self.secrets: SecretsJob | None = None
        self.bundles: BundlesJob | None = None
        self.alerts: AlertsJob | None = None
        if config.secrets.enabled:
            self.secrets = SecretsJob(
                config.secrets,
                environment=config.environment,
                audit=self._audit,
                recorder=self._recorder,
                clock=self._clock,
                redactor=REDACTOR,
            )
        if config.alerts.enabled:
            self.alerts = AlertsJob(
                config.alerts,
                db=self._db,
                recorder=self._recorder,
                clock=self._clock,
                environment=config.environment,
                pod=pod_name(),
                secret_reader=self.secrets.own if self.secrets else None,
                context=self._alert_context,
                redactor=REDACTOR,
            )
            self.alerts.own.before = self._measure
        if config.bundles.enabled:
            self.bundles = BundlesJob(
                config.bundles,
                channel=config.channel,
                manifest_required=config.manifest_required,
                production=config.environment == "production",
                db=self._db,
                audit=self._audit,
                recorder=self._recorder,
                clock=self._clock,
                secret_gate=self.secrets,
                metric_gate=self.alerts,
                told=RolledBack(self.alerts, self._clock) if self.alerts else None,
            )

    @property
    def _jobs(self) -> dict[str, Job]:
        jobs: tuple[Job | None, ...] = (self.secrets, self.bundles, self.alerts)
        return {job.name: job for job in jobs if job is not None}

    def _alert_context(self) -> Mapping[str, str]:
        """What a page says about the bundle: which one is live and for how long."""
        if self.bundles is None:
            return {}
        seen = self.bundles.snapshot()
        told = {"bundle": str(seen["current"] or "none")}
        if seen["previous"]:
            told["previous_bundle"] = str(seen["previous"])
        if seen["current_since"]:
            told["bundle_live_for"] = f"{self._clock.now() - seen['current_since']:.0f}s"
        return told

    # -- running ----------------------------------------------------------------------------

    async def run(self) -> int:
        """Serve until SIGTERM or SIGINT; return the exit code."""
        stop = asyncio.Event()
        self._on_signals(stop)
        config = self.config
        web = HttpServer(config.web.listen, routes(self))
        admin = AdminServer(config.admin_socket, self)
        heartbeat = asyncio.create_task(self._heartbeat(), name="heartbeat")
        try:
            host, port = await web.start()
            await admin.start()
            for job in self._jobs.values():
                self._supervisor.start(job)
            gc.collect()
            gc.freeze()  # what lives for ever need not be walked by every collection
            _log.info("agent is up", version=__version__, listen=f"{host}:{port}", pid=os.getpid())
            await stop.wait()
            await self._drain(web)
            return 0
        finally:
            heartbeat.cancel()
            await admin.stop()
            await web.stop(Seconds(0.0))
            self._stack.close()

    async def _drain(self, web: HttpServer) -> None:
        self._draining = True
        began = self._clock.monotonic()
        grace = self.config.grace_period
        _log.info("draining", grace_seconds=grace)
        try:
            async with asyncio.timeout(grace):
                for name in _STOP_ORDER:
                    await self._supervisor.stop(name)
                await web.stop(Seconds(min(0.5, grace)))
        except TimeoutError:
            _log.warning("grace period is over; what is undelivered stays in the outbox")
        wait = self.config.secrets.wipe_on_exit
        if self.secrets is not None and wait is not None:
            await self._clock.sleep(Seconds(wait - (self._clock.monotonic() - began)))
            await asyncio.to_thread(self.secrets.wipe)
        _log.info("agent has left")

    def _on_signals(self, stop: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()

        def leave() -> None:
            if stop.is_set():
                os._exit(130)  # asked twice: the outbox is durable, nothing is lost by going now
            stop.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, leave)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)

    def _on_hangup(self) -> None:
        if self._draining:
            return
        task = asyncio.ensure_future(self._reload_quietly())
        self._reloads.add(task)  # the loop itself keeps no reference
        task.add_done_callback(self._reloads.discard)

    async def _heartbeat(self) -> None:
        while True:
            before = self._clock.monotonic()
            await self._clock.sleep(_HEARTBEAT)
            self._beat = self._clock.monotonic()
            self._recorder.set("loop_lag_seconds", max(0.0, self._beat - before - _HEARTBEAT))
            if self._audit.problem is not None:
                await asyncio.to_thread(self._audit.retry)

    # -- reload -----------------------------------------------------------------------------

    async def _reload_quietly(self) -> None:
        try:
            async with self._reloading:
                await self.reload()
        except AgentError as error:
            _log.error("reload refused; the old configuration stays", error=error.told())
        except Exception as error:  # noqa: BLE001 - a bug must not pass for a reload that worked
            self._reload_error = REDACTOR.scrub(f"{type(error).__name__}: {error}")
            _log.exception("reload failed")

    async def reload(self) -> None:
        """Read the configuration again and apply all of it, or nothing.

        Raises:
            AgentError: some part refuses; everything goes on as before and `/` says so.
        """
        try:
            new = await asyncio.to_thread(load_config, self._config_path)
            refuse_fixed(self.config, new)
            commits: list[Callable[[], None]] = []
            if self.secrets:
                commits.append(self.secrets.prepare(new.secrets))
            if self.bundles:
                commits.append(self.bundles.prepare(new.bundles))
            if self.alerts:
                commits.append(self.alerts.prepare(new.alerts))
        except AgentError as error:
            self._reload_error = error.told()
            self._recorder.inc("config_reloads_total", outcome="refused")
            self._audit.append("operator", "config.reload", str(self._config_path), "refused")
            raise
        for commit in commits:
            commit()
        configure_logging(new.log.level, new.log.format)
        self.config = new
        self._reload_error = None
        self._recorder.inc("config_reloads_total", outcome="applied")
        self._audit.append("operator", "config.reload", str(self._config_path), "applied")
        _log.info("configuration reloaded")

    # -- the face ---------------------------------------------------------------------------

    def live(self) -> tuple[bool, str]:
        """Whether the loop turns: nothing else."""
        late = self._clock.monotonic() - self._beat
        if late > _HUNG_AFTER:
            return False, f"the event loop has not turned for {late:.0f} s"
        return True, "the event loop turns"

    def conditions(self) -> list[Condition]:
        """Everything that can be wrong, jobs first."""
        found = [item for job in self._jobs.values() for item in job.conditions()]
        found.extend(self._supervisor.conditions())
        found.append(self._audit.condition())
        if self._reload_error:
            found.append(
                Condition(
                    "config",
                    ok=False,
                    reason=f"the last reload was refused: {self._reload_error}",
                    remedy="correct the file and send SIGHUP again; the old one is in force",
                    gates_ready=False,
                )
            )
        if self.config.secrets.enabled or self.config.bundles.enabled:
            found.append(recorded(self._audit.problem))
        if self._draining:
            found.append(Condition("draining", ok=False, reason="the agent is shutting down"))
        return found

    def ready(self) -> tuple[bool, list[Condition]]:
        """Whether what the trader needs is there, and the conditions that say so."""
        found = self.conditions()
        good = ready(found)
        self._latched = self._latched or good
        return good, found

    def started(self) -> tuple[bool, str]:
        """True for good once the agent has been ready."""
        if not self._latched:
            self.ready()
        return self._latched, "has been ready" if self._latched else "has not been ready yet"

    def expose(self, accept: str) -> tuple[str, bytes]:
        """The agent's own metrics."""
        self._measure()
        return self._recorder.expose(accept)

    def _measure(self) -> None:
        for condition in self.conditions():
            self._recorder.set("condition_ok", float(condition.ok), condition=condition.name)

    def status(self) -> dict[str, Any]:
        """The whole read model: JSON-able, no secret value in it."""
        good, found = self.ready()
        now = self._clock.now()
        seen: dict[str, Any] = {
            "agent": {
                "version": __version__,
                "environment": self.config.environment,
                "pod": pod_name(),
                "pid": os.getpid(),
                "started_at": self._started_at,
                "uptime_seconds": round(now - self._started_at, 1),
            },
            "live": self.live()[0],
            "ready": good,
            "started": self._latched,
            "conditions": [condition.as_dict() for condition in found],
            "jobs": {
                name: self._supervisor.records[name].as_dict()
                if name in self._supervisor.records
                else {"state": "disabled", "restarts": 0, "last_error": None, "since": now}
                for name in ("secrets", "bundles", "alerts")
            },
        }
        for name in ("secrets", "bundles", "alerts"):
            job = self._jobs.get(name)
            seen[name] = dict(job.snapshot()) if job else None
        scrubbed: dict[str, Any] = REDACTOR.scrub_tree(seen)
        return scrubbed

    async def admin(self, verb: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Carry out one changing verb, asked over the admin socket.

        Raises:
            AgentError: the verb is unknown, its arguments are off, or the work failed.
        """
        if verb == "status":
            return self.status()
        if verb == "reload":
            async with self._reloading:
                await self.reload()
            return {"reloaded": True}
        if verb == "refresh":
            return dict(await _enabled(self.secrets, "secrets").refresh())
        if verb == "reissue":
            name = str(arguments.get("name", ""))
            return dict(await _enabled(self.secrets, "secrets").reissue(name))
        if verb == "alerts.test":
            alerts, environment = _enabled(self.alerts, "alerts"), self.config.environment
            return await send_test(alerts, self._clock, arguments, environment, pod_name())
        if verb.startswith("silence."):
            return _enabled(self.alerts, "alerts").admin(verb, arguments)
        return await bundle_verb(self.bundles, verb, arguments)


def _enabled(job: T | None, name: str) -> T:
    if job is None:
        raise UsageError(f"the {name} job is switched off", f"set {name}.enabled: true")
    return job


def pod_name() -> str:
    """The pod's name (downward API variable `POD_NAME`), else the host's."""
    return os.environ.get("POD_NAME") or socket.gethostname()
