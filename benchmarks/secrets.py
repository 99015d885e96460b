"""Secrets from servers, beside OpenBao's own agent in the same run.

- cold `init` of 50 KV secrets, exec to exit with the files flipped, beside `bao agent` with
  exit_after_auth, by turns; peak memory of both
- cold `init` of 50 AWS secrets against moto
- a first provider that accepts and says nothing: how long the first read takes, and later ones
- a cached read, and AES-256-GCM of 1 KiB
- beside a running `bao agent`: steady memory, requests while nothing changes; how soon a write is
  seen, whole, at looks of 5 s and of 1 s
- memory over thousands of refreshes; thousands of rotations under readers
The servers are real and on loopback; nothing is mocked. They come with the `dev` extra.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.harness import Bar, Run, arguments, compiled, finish, median, timed
from benchmarks.secretsrun import measure_loops, measure_running
from tests import servers
from tests.faults.proxy import FaultServer, silent

if TYPE_CHECKING:
    from agent.secrets.service import SecretsService

COUNT = 50
NAMES = [f"desk/secret-{at:02}" for at in range(COUNT)]
VALUE = {"host": "db", "username": "desk", "password": "x" * 32}
KEYS = {"AWS_ACCESS_KEY_ID": "AKIATESTTESTTESTTEST", "AWS_SECRET_ACCESS_KEY": "x" * 40}


def agent_config(folder: Path, directory: Path, provider: str) -> Path:
    """A configuration of 50 secrets from one server alone."""
    path = folder / f"{directory.name}.yaml"
    items = ", ".join(f"{{name: {name}}}" for name in NAMES)
    path.write_text(
        f"environment: staging\nstate_dir: {folder}/state\nlog: {{level: warning}}\n"
        "alerts: {enabled: false}\nbundles: {enabled: false}\n"
        f"secrets:\n  directory: {directory}\n  chain: {{deadline: 20s}}\n"
        f"  {provider}\n  items: [{items}]\n"
    )
    return path


def bao_config(folder: Path, memory: Path, url: str, token: Path, *, once: bool = True) -> Path:
    """The same 50 secrets as OpenBao's agent writes them: once, or for as long as it runs."""
    templates = "".join(
        f'template {{\n  destination = "{memory}/{name}.json"\n  perms = "0400"\n'
        f'  contents = "{{{{ with secret \\"secret/data/{name}\\" }}}}'
        '{{ .Data.data | toJSON }}{{ end }}"\n}\n'
        for name in NAMES
    )
    path = folder / f"bao-agent-{once}.hcl"
    path.write_text(
        f'vault {{\n  address = "{url}"\n}}\nexit_after_auth = {str(once).lower()}\n'
        'auto_auth {\n  method "token_file" {\n'
        f'    config = {{ token_file_path = "{token}" }}\n  }}\n}}\n{templates}'
    )
    return path


def init(config: Path) -> list[str]:
    return [sys.executable, "-m", "agent", "init", "--config", str(config)]


def measure_init(folder: Path, memory: Path, bao: servers.Bao, moto: str, rounds: int) -> list[Bar]:
    for name in NAMES:
        bao.put(name, VALUE)
    fill_aws(moto)
    token = folder / "token"
    token.write_text(servers.ROOT_TOKEN)
    vault = f"vault: {{url: '{bao.url}', auth: {{token_file: {token}}}}}"
    aws = f"aws: {{endpoint: '{moto}', region: eu-west-1}}"
    from_vault = agent_config(folder, memory / "vault", vault)
    from_aws = agent_config(folder, memory / "aws", aws)
    peer = [bao.binary, "agent", f"-config={bao_config(folder, memory / 'peer', bao.url, token)}"]
    environment = {**os.environ, **KEYS, "HOME": str(folder)}
    ours: list[Run] = []
    theirs: list[Run] = []
    cloud: list[Run] = []
    for _ in range(rounds):
        for name in ("vault", "aws", "peer"):
            remove(memory / name)
        theirs.append(timed(peer, environment))
        ours.append(timed(init(from_vault), environment))
        cloud.append(timed(init(from_aws), environment))
    written = len(list((memory / "vault" / "..data" / "desk").iterdir()))
    if written != COUNT or len(list((memory / "peer" / "desk").iterdir())) != COUNT:
        raise RuntimeError("a run did not write every secret")
    wall = median([run.wall for run in theirs]) * 1000
    peak = max(run.peak for run in theirs)
    return [
        Bar(
            f"init of {COUNT} KV secrets, wall",
            median([run.wall for run in ours]) * 1000,
            0.8 * wall,
            "ms",
            f"bao agent {wall:.0f} ms, same run, by turns",
        ),
        Bar(
            f"init of {COUNT} KV secrets, peak memory",
            max(run.peak for run in ours),
            0.5 * peak,
            "MB",
            f"bao agent {peak:.0f} MB",
        ),
        Bar(
            f"init of {COUNT} AWS secrets, wall", median([r.wall for r in cloud]) * 1000, 200, "ms"
        ),
    ]


def fill_aws(moto: str) -> None:
    """By AWS's own client, in a process of its own: a child's peak counts its parent's size."""
    code = (
        "import boto3, json, sys\n"
        "client = boto3.client('secretsmanager', 'eu-west-1', endpoint_url=sys.argv[1])\n"
        "for name in json.loads(sys.argv[2]):\n"
        "    client.create_secret(Name=name, SecretString=sys.argv[3])\n"
    )
    subprocess.run(
        [sys.executable, "-c", code, moto, json.dumps(NAMES), json.dumps(VALUE)],
        check=True,
        env={**os.environ, **KEYS},
    )


def measure_failover(folder: Path, bao: servers.Bao, rounds: int) -> list[Bar]:
    """First reads with a fresh breaker, then reads with it open; every one must be answered."""
    token = str(folder / "token")
    first: list[float] = []
    later: list[float] = []
    cached: list[float] = []
    os.environ.update(KEYS)
    with FaultServer(silent) as hung:
        for _ in range(rounds):
            service = service_of(
                {
                    "directory": "/dev/shm/unused",
                    "aws": {"endpoint": hung.url, "region": "eu-west-1"},
                    "vault": {"url": bao.url, "auth": {"token_file": token}},
                    "chain": {"order": ["aws", "vault"], "breaker": {"failures": 1, "rest": 30}},
                }
            )
            first.append(seconds(lambda s=service: s.get(NAMES[0])))
            for name in NAMES[1:20]:
                later.append(seconds(lambda s=service, n=name: s.get(n)))
            service.chain.close()
        for _ in range(20_000):
            cached.append(seconds(lambda: service.get(NAMES[0])))
    return [
        Bar("first read past a silent provider, p99", p99(first) * 1000, 1000, "ms"),
        Bar("read past it, breaker open, p99", p99(later) * 1000, 5, "ms", "a read of Vault"),
        Bar(
            "cached read, p99", p99(cached) * 1e6, 5, "µs", f"median {median(cached) * 1e6:.1f} µs"
        ),
    ]


def measure_sealing() -> Bar:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    cipher, data = AESGCM(bytes(range(32))), os.urandom(1024)
    times = [seconds(lambda: cipher.encrypt(os.urandom(12), data, b"name")) for _ in range(20_000)]
    return Bar("AES-256-GCM of 1 KiB, median", median(times) * 1e6, 10, "µs")


def service_of(section: dict[str, object]) -> SecretsService:
    # only now: what this process weighs would count in the children measured before
    from agent.clock import SystemClock
    from agent.configsecrets import Secrets
    from agent.secrets.service import SecretsService
    from agent.telemetry.metrics import NullRecorder
    from agent.telemetry.redaction import Redactor

    return SecretsService(
        Secrets.model_validate(section),
        environment="production",
        audit=None,
        recorder=NullRecorder(),
        clock=SystemClock(),
        redactor=Redactor(),
    )


def seconds(work: object) -> float:
    began = time.perf_counter()
    work()  # type: ignore[operator]
    return time.perf_counter() - began


def p99(values: list[float]) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * 0.99))]


def remove(folder: Path) -> None:
    for path, _, _ in os.walk(folder):
        os.chmod(path, 0o700)
    shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    options = arguments(__doc__)
    if servers.bao_binary() is None:
        print("OpenBao is not installed: run by .venv-dev/bin/python")
        return 1
    compiled()
    rounds = 5 if options.quick else 21
    folder = Path(tempfile.mkdtemp(prefix="jules-bench-"))
    memory = Path(tempfile.mkdtemp(prefix="jules-bench-", dir="/dev/shm"))
    try:
        with ExitStack() as stack:
            bao = stack.enter_context(servers.bao(folder))
            moto = stack.enter_context(servers.moto(folder))
            bars = measure_init(folder, memory, bao, moto, rounds)
            peer = bao_config(folder, memory / "peer", bao.url, folder / "token", once=False)
            remove(memory / "peer")
            bars += measure_running(folder, memory, bao, NAMES, peer, options.quick)
            bars += measure_failover(folder, bao, rounds)
            bars.append(measure_sealing())
            bars += measure_loops(folder, memory, bao.url, NAMES[1], options.quick)
    finally:
        for path in (folder, memory):
            remove(path)
    return finish(f"secrets ({rounds} rounds)", bars, options)


if __name__ == "__main__":
    sys.exit(main())
