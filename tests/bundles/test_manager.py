"""The earlier scripts' own calls, as they are written there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.bundles import manager
from agent.bundles.manager import (
    BlueGreenDeployment,
    DeploymentStatus,
    create_blue_green_deployment,
)
from tests.bundles.made import bundle
from tests.faults.trader import TraderStub


@pytest.fixture
def trader() -> Iterator[TraderStub]:
    stub = TraderStub()
    yield stub
    stub.close()


@pytest.fixture
def deployments(tmp_path: Path, trader: TraderStub) -> BlueGreenDeployment:
    made = BlueGreenDeployment(
        tmp_path / "models", health_check_url=trader.url, sleep=lambda _seconds: None
    )
    made.health_check_timeout = 2.0
    return made


def test_the_example_of_two_deployments_and_a_rollback_works(
    tmp_path: Path, deployments: BlueGreenDeployment
) -> None:
    first = deployments.deploy_bundle("v2025-07-06", bundle(tmp_path / "a", "v2025-07-06"))
    assert first.status == DeploymentStatus.ACTIVE, first.error_message
    assert first.status.value == "active"
    assert first.previous_version is None
    second = deployments.deploy_bundle(
        "v2025-07-08", bundle(tmp_path / "b", "v2025-07-08"), force=True
    )
    assert (second.status, second.previous_version) == (DeploymentStatus.ACTIVE, "v2025-07-06")
    assert second.completed_at is not None
    assert second.completed_at >= second.started_at
    status = deployments.get_deployment_status()
    assert status["current_version"] == "v2025-07-08"
    assert Path(status["current_bundle_path"]).is_dir()
    assert status["available_bundles"] == ["v2025-07-06", "v2025-07-08"]
    assert status["rollback_available"] is True
    back = deployments.rollback_deployment()
    assert (back.status, back.bundle_version) == (DeploymentStatus.ACTIVE, "v2025-07-06")
    assert deployments.get_deployment_status()["current_version"] == "v2025-07-06"
    assert [item.bundle_version for item in deployments.list_deployments()][-1] == "v2025-07-06"
    assert len(deployments.list_deployments()) == 3
    assert json.dumps(deployments.get_deployment_status())


def test_content_that_is_no_model_is_refused_and_force_skips_that_judgement(
    tmp_path: Path, deployments: BlueGreenDeployment
) -> None:
    source = bundle(tmp_path / "a", "v1")
    (source / "policy.pt").write_text("# PyTorch model v1")
    refused = deployments.deploy_bundle("v1", source)
    assert refused.status == DeploymentStatus.FAILED
    assert "policy.pt" in str(refused.error_message)
    assert deployments.get_deployment_status()["available_bundles"] == []
    assert deployments.deploy_bundle("v1", source, force=True).status == DeploymentStatus.ACTIVE


def test_an_unwell_trader_puts_the_old_version_back_and_takes_the_new_one_away(
    tmp_path: Path, deployments: BlueGreenDeployment, trader: TraderStub
) -> None:
    deployments.deploy_bundle("v1", bundle(tmp_path / "a", "v1"))
    trader.indicators["database_connected"] = False
    failed = deployments.deploy_bundle("v2", bundle(tmp_path / "b", "v2"))
    assert failed.status == DeploymentStatus.FAILED
    assert failed.error_message == "Health checks failed after deployment"
    assert [check["status"] for check in failed.health_checks] == ["unhealthy"] * 3
    status = deployments.get_deployment_status()
    assert (status["current_version"], status["available_bundles"]) == ("v1", ["v1"])
    trader.indicators["database_connected"] = True
    again = deployments.deploy_bundle("v2", tmp_path / "b")
    assert again.status == DeploymentStatus.ACTIVE


def test_a_first_deployment_with_nobody_to_ask_leaves_nothing_live(
    tmp_path: Path, deployments: BlueGreenDeployment
) -> None:
    deployments.health_check_url = "http://127.0.0.1:1/health"
    failed = deployments.deploy_bundle("v1", bundle(tmp_path / "a", "v1"))
    assert failed.status == DeploymentStatus.FAILED
    assert {check["status"] for check in failed.health_checks} == {"unknown"}
    assert deployments.get_deployment_status()["current_version"] is None
    assert not deployments.current_symlink.is_symlink()


def test_other_content_under_a_live_name_is_refused_even_by_force(
    tmp_path: Path, deployments: BlueGreenDeployment
) -> None:
    deployments.deploy_bundle("v1", bundle(tmp_path / "a", "v1"))
    other = deployments.deploy_bundle("v1", bundle(tmp_path / "b", "v1", note="x"), force=True)
    assert other.status == DeploymentStatus.FAILED
    assert "already here with other content" in str(other.error_message)
    assert deployments.get_deployment_status()["current_version"] == "v1"


@pytest.mark.parametrize("version", ["../v1", "", "a/b", ".hidden"])
def test_a_name_that_is_no_version_fails_and_writes_nothing_outside(
    tmp_path: Path, deployments: BlueGreenDeployment, version: str
) -> None:
    record = deployments.deploy_bundle(version, bundle(tmp_path / "a", "v1"))
    assert record.status == DeploymentStatus.FAILED
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "models"]


def test_a_rollback_with_nowhere_to_go_fails_as_it_always_did(
    deployments: BlueGreenDeployment,
) -> None:
    record = deployments.rollback_deployment()
    assert (record.status, record.bundle_version) == (DeploymentStatus.FAILED, "unknown")
    assert record.error_message == "No previous version available for rollback"
    record = deployments.rollback_deployment("v9")
    assert record.error_message == "Target version v9 not found"


def test_records_that_the_earlier_scripts_wrote_are_read(
    tmp_path: Path, deployments: BlueGreenDeployment
) -> None:
    old: dict[str, Any] = {
        "deployment_id": "deploy_v0_1",
        "bundle_version": "v0",
        "status": "rolled_back",
        "started_at": 1.0,
        "started_at_iso": "1970-01-01 00:00:01 UTC",
    }
    (deployments.deployments_dir / "deploy_v0_1.json").write_text(json.dumps(old))
    (deployments.deployments_dir / "torn.json").write_text("{")
    [found] = deployments.list_deployments()
    assert (found.bundle_version, found.status) == ("v0", DeploymentStatus.ROLLED_BACK)


def test_the_factory_takes_a_text_and_the_init_script_s_look_works(tmp_path: Path) -> None:
    made = create_blue_green_deployment(str(tmp_path / "models"))
    status = made.get_deployment_status()
    assert status["current_version"] is None
    assert status["deployment_root"] == str(tmp_path / "models")
    assert manager.DEFAULT_ROOT == "/opt/intradayjules/models"
    shutil.rmtree(tmp_path / "models")
