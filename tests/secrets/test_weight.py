"""What a start pays for: the code of a provider that is not configured is never imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import sys
from agent.clock import SystemClock
from agent.configsecrets import Secrets
from agent.secrets.service import configured

made = configured(Secrets.model_validate({section}), "staging", SystemClock())
print(*[provider.name for provider in made])
print(*sys.modules)
"""
VAULT = {"vault": {"url": "https://vault:8200", "auth": {"token_file": "/run/token"}}}
AWS = {"aws": {"region": "eu-west-1"}}
HEAVY = {"hvac", "requests", "boto3", "botocore", "urllib3", "prometheus_client"}


@pytest.mark.parametrize(
    ("section", "providers", "absent"),
    [
        ({}, "local", {"h11", "agent.secrets.providers.http", *HEAVY}),
        (VAULT, "vault local", {"agent.secrets.providers.aws.client", *HEAVY}),
        (AWS, "aws local", {"agent.secrets.providers.vault.client", *HEAVY}),
    ],
)
def test_a_start_imports_only_the_providers_that_are_configured(
    section: dict[str, object], providers: str, absent: set[str]
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE.replace("{section}", repr(section))],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    names, modules = done.stdout.splitlines()
    assert names == providers
    assert not absent & set(modules.split())
