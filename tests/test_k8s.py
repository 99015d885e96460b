"""The manifests that are applied: restricted pods, probes that exist, a configuration that loads.

Read as kustomize builds them where kubectl is there, and file by file everywhere.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from agent.config import Config
from agent.configload import load_config
from agent.web.routes import Face, routes
from agent.web.server import Request

K8S = Path(__file__).parents[1] / "k8s"
LAYERS = ("base", "overlays/development")
Tree = dict[str, Any]


def _load(path: Path) -> Tree:
    return cast("Tree", yaml.safe_load(path.read_text(encoding="utf-8")))


def _pod_of_base() -> Tree:
    return cast("Tree", _load(K8S / "base" / "deployment.yaml")["spec"]["template"]["spec"])


def _patch() -> list[Tree]:
    text = (K8S / "overlays" / "development" / "demo.yaml").read_text(encoding="utf-8")
    return cast("list[Tree]", yaml.safe_load(text))


def _built(layer: str) -> list[Tree]:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed: the layer cannot be built")
    done = subprocess.run(
        [kubectl, "kustomize", str(K8S / layer)], capture_output=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr.decode()
    return [tree for tree in yaml.safe_load_all(done.stdout) if tree]


def _the(kind: str, trees: list[Tree]) -> Tree:
    (found,) = [tree for tree in trees if tree["kind"] == kind]
    return found


def _containers(pod: Tree) -> list[Tree]:
    return [*pod["initContainers"], *pod["containers"]]


def _assert_restricted(pod: Tree, containers: list[Tree]) -> None:
    """Every field that the `restricted` Pod Security Standard looks at."""
    for field in ("hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"):
        assert not pod.get(field), field
    security = pod["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert "sysctls" not in security
    for container in containers:
        _assert_restricted_container(container)
    allowed = {"name", "configMap", "secret", "persistentVolumeClaim", "emptyDir"}
    for volume in pod["volumes"]:
        assert set(volume) <= allowed, volume


def _assert_restricted_container(container: Tree) -> None:
    name, security = container["name"], container["securityContext"]
    assert security["allowPrivilegeEscalation"] is False, name
    assert security["capabilities"] == {"drop": ["ALL"]}, name
    assert security["readOnlyRootFilesystem"] is True, name
    assert security["runAsUser"] >= 1000, name
    assert set(security) == {
        "allowPrivilegeEscalation",
        "capabilities",
        "readOnlyRootFilesystem",
        "runAsUser",
    }, name
    assert all("hostPort" not in port for port in container.get("ports", [])), name
    assert "memory" in container["resources"]["limits"], name


def test_every_manifest_is_yaml() -> None:
    paths = sorted(K8S.rglob("*.yaml"))
    assert len(paths) >= 8
    for path in paths:
        assert list(yaml.safe_load_all(path.read_text(encoding="utf-8"))), path


def test_every_file_that_a_kustomization_names_is_there() -> None:
    for path in K8S.rglob("kustomization.yaml"):
        tree = _load(path)
        named = [*tree["resources"], *(patch["path"] for patch in tree.get("patches", []))]
        for generator in tree.get("configMapGenerator", []):
            named.extend(generator["files"])
        assert [name for name in named if not (path.parent / name).exists()] == []


def test_the_base_pod_is_restricted() -> None:
    pod = _pod_of_base()
    _assert_restricted(pod, _containers(pod))


def test_what_the_development_overlay_adds_is_restricted_too() -> None:
    added = [step["value"] for step in _patch() if "image" in step["value"]]
    assert [container["name"] for container in added] == ["seed", "receiver"]
    for container in added:
        _assert_restricted_container(container)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_as_kustomize_builds_it_is_restricted(layer: str) -> None:
    pod = _the("Deployment", _built(layer))["spec"]["template"]["spec"]
    _assert_restricted(pod, _containers(pod))


def test_the_patch_puts_its_volumes_where_the_base_has_those_names() -> None:
    names = [volume["name"] for volume in _pod_of_base()["volumes"]]
    for step in _patch():
        if step["op"] == "replace":
            assert names[int(step["path"].rsplit("/", 1)[1])] == step["value"]["name"]


@pytest.mark.parametrize("layer", LAYERS)
def test_every_volume_that_is_mounted_exists(layer: str) -> None:
    pod = _the("Deployment", _built(layer))["spec"]["template"]["spec"]
    volumes = {volume["name"] for volume in pod["volumes"]}
    for container in _containers(pod):
        mounted = {mount["name"] for mount in container.get("volumeMounts", [])}
        assert mounted <= volumes, container["name"]


def test_the_agent_is_a_native_sidecar_after_init_and_the_trader_comes_last() -> None:
    pod = _pod_of_base()
    init, agent = pod["initContainers"]
    assert (init["name"], init["args"], init.get("restartPolicy")) == ("init", ["init"], None)
    assert (agent["name"], agent["args"]) == ("agent", ["run"])
    assert agent["restartPolicy"] == "Always"
    assert [container["name"] for container in pod["containers"]] == ["trader"]


def test_the_trader_has_its_own_uid_the_agents_group_and_no_write_access() -> None:
    pod = _pod_of_base()
    _, agent = pod["initContainers"]
    (trader,) = pod["containers"]
    assert trader["securityContext"]["runAsUser"] != agent["securityContext"]["runAsUser"]
    assert pod["securityContext"]["runAsGroup"] == pod["securityContext"]["fsGroup"]
    written = {mount["name"] for mount in agent["volumeMounts"] if not mount.get("readOnly")}
    for mount in trader["volumeMounts"]:
        assert mount.get("readOnly") or mount["name"] not in written, mount


def test_the_pod_asks_nothing_of_the_cluster() -> None:
    pod = _pod_of_base()
    assert pod["automountServiceAccountToken"] is False
    assert "serviceAccountName" not in pod
    kinds = {tree["kind"] for path in K8S.rglob("*.yaml") for tree in _kinds(path)}
    assert not {kind for kind in kinds if "Role" in kind or kind == "ServiceAccount"}


def _kinds(path: Path) -> list[Tree]:
    trees = yaml.safe_load_all(path.read_text(encoding="utf-8"))
    return [tree for tree in trees if isinstance(tree, dict) and "kind" in tree]


def test_no_variable_of_the_cluster_can_pass_for_an_option() -> None:
    """A service `jules-x` would make JULES_X_PORT, which is no option: the start would fail."""
    assert _pod_of_base()["enableServiceLinks"] is False


def test_secrets_lie_in_memory_and_have_a_bound() -> None:
    volumes = {volume["name"]: volume for volume in _pod_of_base()["volumes"]}
    assert volumes["secrets"]["emptyDir"]["medium"] == "Memory"
    assert "sizeLimit" in volumes["secrets"]["emptyDir"]


class _NoFace:
    """Answers nothing: a route that exists asks it and fails, an unknown one does not."""


@pytest.mark.parametrize("kind", ["startupProbe", "readinessProbe", "livenessProbe"])
def test_each_probe_asks_a_path_that_the_face_answers(kind: str) -> None:
    wanted = {
        "startupProbe": "/startupz",
        "readinessProbe": "/readyz",
        "livenessProbe": "/livez",
    }
    _, agent = _pod_of_base()["initContainers"]
    probe = agent[kind]["httpGet"]
    assert probe["path"] == wanted[kind]
    assert {"name": probe["port"], "containerPort": 9900} in agent["ports"]
    handle = routes(cast("Face", _NoFace()))
    with pytest.raises(AttributeError):
        handle(Request("GET", probe["path"], {}, {}))
    assert handle(Request("GET", "/no-such-path", {}, {})).status == 404


@pytest.mark.parametrize("layer", LAYERS)
def test_the_configuration_of_a_layer_loads_and_fits_the_mounts(layer: str) -> None:
    config = load_config(K8S / layer / "agent.yaml", {})
    mounts = {
        mount["mountPath"]: mount for mount in _pod_of_base()["initContainers"][1]["volumeMounts"]
    }
    for path in (config.secrets.directory, config.bundles.root, config.web.admin_socket):
        assert path is not None
        assert _mount_of(path, mounts)["readOnly"] is False, path
    assert config.bundles.store is not None
    for path in (config.secrets.local.key_file, config.secrets.local.path):
        assert path is not None
        assert _mount_of(path, mounts)["readOnly"] is True, path
    assert config.web.listen.endswith(":9900")
    assert (config.secrets.file_mode, config.secrets.dir_mode) == (0o440, 0o750)
    _assert_pages_somebody(config)


def _mount_of(path: Path, mounts: dict[str, Tree]) -> Tree:
    holding = [mount for mount in mounts if path.is_relative_to(mount)]
    assert holding, f"{path} is on no mount of the agent"
    return {"readOnly": False, **mounts[max(holding, key=len)]}


def _assert_pages_somebody(config: Config) -> None:
    assert config.alerts.pagerduty is not None
    assert config.alerts.slack is not None
    assert config.alerts.pagerduty.routing_key.secret == "api_key/pagerduty"
    assert config.alerts.slack.webhook_url is not None
    assert config.alerts.slack.webhook_url.secret == "api_key/slack"


def test_the_layers_differ_only_in_where_they_page_and_how_long_they_bake() -> None:
    base, development = (load_config(K8S / layer / "agent.yaml", {}) for layer in LAYERS)
    assert base.environment == "production"
    assert development.environment == "development"
    assert base.secrets == development.secrets
    assert base.bundles.store == development.bundles.store
