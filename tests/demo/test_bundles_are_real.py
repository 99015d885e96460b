"""The demo's bundles are what PyTorch and scikit-learn write, and are read without either."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import random
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from agent.demo.acts import BUNDLES, GOOD, SLOW
from agent.demo.model import ModelError, load, read_scaler, read_tensors

FILES = (
    "policy.pt",
    "value_function.pt",
    "feature_scaler.pkl",
    "config.yaml",
    "metadata.json",
)
both = pytest.mark.parametrize("version", [GOOD, SLOW])


def files_of(version: str) -> dict[str, bytes]:
    return {name: (BUNDLES / version / name).read_bytes() for name in FILES}


def members(path: Path) -> set[str]:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return {name.partition("/")[2] for name in archive.namelist()}


@both
def test_the_policy_is_a_state_dict_checkpoint(version: str) -> None:
    names = members(BUNDLES / version / "policy.pt")
    assert {"data.pkl", "version", "byteorder", "data/0"} <= names
    assert not any(name.startswith("code/") for name in names)


@both
def test_the_value_function_is_torchscript(version: str) -> None:
    names = members(BUNDLES / version / "value_function.pt")
    assert {"data.pkl", "constants.pkl", "code/__torch__.py", "version"} <= names


@both
def test_metadata_tells_what_a_deployment_asks_for(version: str) -> None:
    folder = BUNDLES / version
    metadata = json.loads((folder / "metadata.json").read_bytes())
    assert metadata["version"] == version
    for key in ("created_at", "model_type", "training_data_hash", "obs_space", "action_space"):
        assert metadata[key]
    digest = hashlib.sha256((folder / "policy.pt").read_bytes()).hexdigest()
    assert metadata["model_hash"] == digest
    assert yaml.safe_load((folder / "config.yaml").read_bytes())["version"] == version


@both
def test_a_bundle_stays_small(version: str) -> None:
    assert sum(path.stat().st_size for path in (BUNDLES / version).iterdir()) < 40_000


@both
def test_weights_are_read_and_decide_without_torch(version: str) -> None:
    model = load(files_of(version))
    assert model.version == version
    assert (len(model.mean), len(model.scale)) == (21, 21)
    assert len(model.policy[0].weights[0]) == 21
    rng = random.Random(1)
    actions = set()
    for _ in range(50):
        seen = [rng.gauss(mean, scale) for mean, scale in zip(model.mean, model.scale, strict=True)]
        actions.add(model.decide(seen)[0])
    assert len(actions) > 1
    assert "torch" not in sys.modules
    assert "sklearn" not in sys.modules


def test_the_forward_pass_is_the_network_that_was_trained() -> None:
    """It was fitted to `trend * linspace(-1, 1)`: buy on a rising last bar, sell on a falling."""
    model = load(files_of(GOOD))
    rising, falling = list(model.mean), list(model.mean)
    for index in (14, 15):  # return_1m and return_5m of the last bar
        rising[index] += 2 * model.scale[index]
        falling[index] -= 2 * model.scale[index]
    assert model.decide(rising)[0] == 4
    assert model.decide(falling)[0] == 0


def test_the_slow_version_is_larger_and_looks_back_further() -> None:
    good, slow = load(files_of(GOOD)), load(files_of(SLOW))
    assert slow.parameters > good.parameters
    assert slow.lookback > good.lookback


def test_a_flipped_byte_is_noticed() -> None:
    data = bytearray(files_of(GOOD)["policy.pt"])
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(ModelError, match=r"not a sound \.pt file"):
        read_tensors(bytes(data))


def test_a_pickle_that_would_run_code_is_refused_unread() -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return eval, ("1/0",)

    with pytest.raises(ModelError, match="refused to import builtins.eval"):
        read_scaler(pickle.dumps(Evil()))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("policy/data.pkl", pickle.dumps(Evil(), protocol=2))
    with pytest.raises(ModelError, match=r"refused to import __builtin__\.eval"):
        read_tensors(packed.getvalue())


def test_a_missing_file_is_named() -> None:
    files = files_of(GOOD)
    del files["feature_scaler.pkl"]
    with pytest.raises(ModelError, match="feature_scaler"):
        load(files)
