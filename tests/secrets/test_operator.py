"""What an operator does to the store and reads in the audit log, with a real agent beside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.audit import verify
from agent.auditchain import records
from tests.demo.programs import until
from tests.integration.test_lifecycle import Agent
from tests.secrets.test_generation import shown


@pytest.fixture
def agent(tmp_path: Path, memory: Path) -> Iterator[Agent]:
    (tmp_path / "state").mkdir()  # else it counts as a workstation, which keeps no audit log
    made = Agent(tmp_path, memory)
    yield made
    if made.process is not None and made.process.poll() is None:
        made.process.kill()
        made.process.wait()


def done(agent: Agent, *words: str) -> subprocess.CompletedProcess[bytes]:
    return agent.command(*words, "--config", str(agent.file))


def published(agent: Agent) -> object:
    return json.loads(shown(Path(agent.config["secrets"]["directory"]))["database/main.json"])


def test_the_stores_key_is_changed_under_a_running_agent(agent: Agent) -> None:
    new = str(agent.folder / "new.key")
    assert agent.command("secrets", "new-key", new).returncode == 0
    refused = done(agent, "secrets", "rekey", "--new-key", new)
    assert refused.returncode == 2
    assert b"next_key_file" in refused.stderr
    agent.config["secrets"]["local"]["next_key_file"] = new
    agent.write()
    agent.start()
    told = done(agent, "secrets", "rekey", "--json")
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout) == {"secrets": 1, "key_file": new}
    agent.put("two")
    until("the new value", lambda: "two" in json.dumps(published(agent)))
    agent.config["secrets"]["local"] = {"path": str(agent.folder / "s.enc"), "key_file": new}
    agent.write()
    assert done(agent, "reload").returncode == 0
    agent.put("three")
    until("the newest value", lambda: "three" in json.dumps(published(agent)))
    assert agent.get("/readyz")[0] == 200
    before = done(agent, "secrets", "get", "database/main", "--previous")
    assert b"two" in before.stdout


def test_init_beside_a_live_agent_does_nothing_while_all_is_fresh(agent: Agent) -> None:
    agent.start()
    reads = sum(record["action"] == "secret.read" for record in records(agent.folder / "state"))
    told = done(agent, "init", "--json")
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["secrets"]["changed"] is False
    after = [r for r in records(agent.folder / "state") if r["action"] == "secret.read"]
    assert len(after) == reads
    agent.signal(signal.SIGTERM)
    assert agent.ends() == 0
    assert done(agent, "init").returncode == 0
    after = [r for r in records(agent.folder / "state") if r["action"] == "secret.read"]
    assert len(after) == reads + 1
    assert (after[-1]["actor"], after[-1]["why"]) == ("init", "init")


def test_on_sigterm_the_files_are_wiped_where_that_is_wished(agent: Agent) -> None:
    agent.config["secrets"]["wipe_on_exit"] = "100ms"
    agent.write()
    agent.start()
    directory = Path(agent.config["secrets"]["directory"])
    assert shown(directory)
    agent.signal(signal.SIGTERM)
    assert agent.ends() == 0
    # locks hold no value, and go with the volume
    assert {path.name for path in directory.iterdir()} == {"..lock", "..agent.lock"}


def test_without_that_wish_the_files_stay_for_the_trader(agent: Agent) -> None:
    agent.start()
    agent.signal(signal.SIGTERM)
    assert agent.ends() == 0
    assert shown(Path(agent.config["secrets"]["directory"]))


def test_the_audit_log_is_read_and_verified_and_an_edit_is_found(agent: Agent) -> None:
    assert done(agent, "init").returncode == 0
    told = done(agent, "secrets", "audit", "verify", "--json")
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["records"] == verify(agent.folder / "state") == 3
    lines = done(agent, "secrets", "audit", "show", "--action", "secret.write", "--json")
    (wrote,) = json.loads(lines.stdout)
    assert (wrote["actor"], wrote["subject"]) == ("operator", "database/main")
    assert wrote["detail"]["uid"] == os.getuid()
    text = done(agent, "secrets", "audit", "show").stdout.decode()
    assert "secret.publish" in text
    assert "one" not in text  # the value
    path = agent.folder / "state" / "audit.jsonl"
    path.write_bytes(path.read_bytes().replace(b"database/main", b"database/mine", 1))
    broken = done(agent, "secrets", "audit", "verify")
    assert broken.returncode == 1
    assert b"line 1 breaks the chain" in broken.stderr


def test_a_secret_travels_by_export_and_import_and_goes_by_delete(agent: Agent) -> None:
    word = agent.folder / "passphrase"
    word.write_text("a passphrase long enough\n")
    word.chmod(0o600)
    given = ("--passphrase-file", str(word))
    out = str(agent.folder / "out.enc")
    assert done(agent, "secrets", "export", out, *given).returncode == 0
    assert done(agent, "secrets", "delete", "database/main").returncode == 0
    assert done(agent, "secrets", "delete", "database/main").returncode == 3
    back = done(agent, "secrets", "import", out, *given, "--json")
    assert json.loads(back.stdout) == {"database/main": "1"}
    assert b"one" in done(agent, "secrets", "get", "database/main").stdout
    told = [r["action"] for r in records(agent.folder / "state")]
    assert told == [
        *("secret.write", "store.export", "secret.delete", "secret.delete", "store.import"),
        "secret.read",
    ]


def test_a_restored_older_store_is_refused_until_an_operator_says_so(agent: Agent) -> None:
    agent.put("two")
    store = agent.folder / "s.enc"
    store.write_bytes((agent.folder / "s.enc.previous").read_bytes())
    refused = done(agent, "init")
    assert refused.returncode == 3
    assert b"accept-older" in refused.stderr
    assert done(agent, "secrets", "accept-older").returncode == 0
    assert done(agent, "init").returncode == 0


def test_check_says_who_could_see_the_secrets_and_which_template_is_none(agent: Agent) -> None:
    template = agent.folder / "t.j2"
    template.write_text("{% if %}")
    agent.config["secrets"]["items"] = [
        {"name": "a", "format": "template", "template": str(template), "path": "a"}
    ]
    agent.write()
    told = done(agent, "check", "--json")
    found = json.loads(told.stdout)
    assert told.returncode == 2
    assert any("is no jinja2" in one["what"] and one["verdict"] == "fail" for one in found)
    assert any("swap" in one["what"] for one in found)


def test_an_unwritable_audit_log_makes_the_agent_unready_and_mends_by_itself(
    agent: Agent,
) -> None:
    """By a limit on the size of files, which also binds root."""
    agent.start()
    log = agent.folder / "state" / "audit.jsonl"
    assert agent.process is not None
    pid, size = str(agent.process.pid), str(log.stat().st_size)
    if subprocess.run(["prlimit", "--pid", pid, f"--fsize={size}:"], check=False).returncode:
        pytest.skip("prlimit cannot set a limit of another process here")
    agent.put("two")
    until("readiness to go", lambda: agent.get("/readyz")[0] == 503)
    told = agent.condition("audit")
    assert told is not None
    assert "cannot be written" in told["reason"]
    assert "one" in json.dumps(published(agent))
    subprocess.run(["prlimit", "--pid", pid, "--fsize=unlimited:"], check=True)
    until("the new value", lambda: "two" in json.dumps(published(agent)))
    until("readiness", lambda: agent.get("/readyz")[0] == 200)
    assert verify(agent.folder / "state") > 3
