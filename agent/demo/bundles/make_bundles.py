# mypy: ignore-errors
# ruff: noqa: INP001 - a script beside its output, never imported; torch is not in our environments
"""Make the demo's two model bundles with the libraries that real ones are made with.

Not part of the agent: it needs torch and scikit-learn, which neither the agent nor its tests ever
import. Run it by hand when a bundle shall change, in an environment of its own:

    python3 -m venv /tmp/torch
    /tmp/torch/bin/pip install torch==2.13.0 numpy==2.4.6 scikit-learn==1.9.1
    /tmp/torch/bin/python agent/demo/bundles/make_bundles.py

Each bundle holds a DQN policy (a state_dict checkpoint by `torch.save`), a value function (a
TorchScript file by `torch.jit`), a fitted `StandardScaler` (pickle), config.yaml, metadata.json and
README.md. The weights come from a fixed seed and a short fit on made-up bars: the files are real,
the market is not. The same seed and the same library versions give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.preprocessing import StandardScaler
from torch import nn

HERE = Path(__file__).resolve().parent
WINDOW, FEATURES, ACTIONS = 3, 7, 5
NAMES = ("return_1m", "return_5m", "volume_z", "spread_bps", "rsi_14", "position", "unrealised_pnl")


@dataclass(frozen=True)
class Recipe:
    """What sets one version apart."""

    version: str
    created_at: str
    seed: int
    hidden: int
    lookback: int
    about: str


RECIPES = (
    Recipe(
        "v2025-07-06",
        "2025-07-06T16:05:11.402913+00:00",
        20250706,
        32,
        60,
        "The policy that has been trading: two layers of 32, risk over 60 bars.",
    ),
    Recipe(
        "v2025-07-08",
        "2025-07-08T16:04:47.118230+00:00",
        20250708,
        48,
        240,
        "A wider policy (two layers of 48) whose risk model looks back over 240 bars. Its files\n"
        "are sound; in production it is too slow, which only its latency under load shows.",
    ),
)


class QNetwork(nn.Module):
    """Q values of every action for one flattened observation."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.q_net = nn.Sequential(
            nn.Linear(WINDOW * FEATURES, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, ACTIONS),
        )

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        return self.q_net(observation)


class ValueFunction(nn.Module):
    """Expected return of one flattened observation."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.body = nn.Linear(WINDOW * FEATURES, hidden)
        self.head = nn.Linear(hidden, 1)

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.body(observation)))


def market(seed: int) -> np.ndarray:
    """Made-up observations: rows of WINDOW x FEATURES, flattened, on unequal scales."""
    rng = np.random.default_rng(seed)
    scale = np.array([1e-3, 3e-3, 1.0, 2.0, 15.0, 1.0, 50.0])
    centre = np.array([0.0, 0.0, 0.0, 4.0, 50.0, 0.0, 0.0])
    bars = rng.normal(size=(2000, WINDOW, FEATURES)) * scale + centre
    return bars.reshape(2000, -1)


def fit(recipe: Recipe, inputs: np.ndarray) -> tuple[QNetwork, ValueFunction]:
    """A short fit, enough that the actions differ between observations."""
    torch.manual_seed(recipe.seed)
    torch.set_num_threads(1)
    policy, value = QNetwork(recipe.hidden), ValueFunction(16)
    x = torch.tensor(inputs, dtype=torch.float32)
    trend = x[:, -FEATURES:][:, :2].sum(dim=1, keepdim=True)
    target = trend * torch.linspace(-1.0, 1.0, ACTIONS)
    weights = [*policy.parameters(), *value.parameters()]
    optimiser = torch.optim.Adam(weights, lr=3e-3)
    for _ in range(200):
        optimiser.zero_grad()
        loss = nn.functional.mse_loss(policy(x), target)
        loss = loss + nn.functional.mse_loss(value(x), trend.abs())
        loss.backward()
        optimiser.step()
    return policy.eval(), value.eval()


def config(recipe: Recipe) -> str:
    return f"""\
# Read by the trading process when it loads the bundle.
model_type: rl_policy
version: {recipe.version}
policy:
  algorithm: DQN
  observation: [{WINDOW}, {FEATURES}]
  features: [{", ".join(NAMES)}]
  hidden: [{recipe.hidden}, {recipe.hidden}]
  actions: {ACTIONS}
risk:
  var_confidence: 0.99
  var_lookback: {recipe.lookback}
  var_limit: 25000.0
  max_position: 500
"""


def metadata(recipe: Recipe, inputs: np.ndarray, policy: bytes) -> str:
    tree = {
        "version": recipe.version,
        "policy_id": f"DQN_{recipe.created_at[:10]}",
        "bundle_format_version": "1.0",
        "created_at": recipe.created_at,
        "model_type": "rl_policy",
        "training_data_hash": "sha256:" + hashlib.sha256(inputs.tobytes()).hexdigest(),
        "model_hash": hashlib.sha256(policy).hexdigest(),
        "obs_space": {"type": "Box", "shape": [WINDOW, FEATURES], "dtype": "float32"},
        "action_space": {"type": "Discrete", "shape": [], "n": ACTIONS, "dtype": "int64"},
        "algorithm": "DQN",
        "framework": "pytorch",
        "torch_version": torch.__version__,
        "files": {
            "policy.pt": "state_dict",
            "value_function.pt": "torchscript",
            "feature_scaler.pkl": "scikit-learn StandardScaler",
        },
    }
    return json.dumps(tree, indent=2) + "\n"


def make(recipe: Recipe) -> None:
    """Write one bundle's files."""
    folder = HERE / recipe.version
    folder.mkdir(exist_ok=True)
    raw = market(recipe.seed)
    scaler = StandardScaler().fit(raw)
    inputs = scaler.transform(raw)
    policy, value = fit(recipe, inputs)
    torch.save(policy.state_dict(), folder / "policy.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is in maintenance; traders still ship it
        torch.jit.script(value).save(str(folder / "value_function.pt"))
    (folder / "feature_scaler.pkl").write_bytes(pickle.dumps(scaler, protocol=4))
    (folder / "config.yaml").write_text(config(recipe))
    (folder / "metadata.json").write_text(
        metadata(recipe, inputs, (folder / "policy.pt").read_bytes())
    )
    (folder / "README.md").write_text(f"# {recipe.version}\n\n{recipe.about}\n")
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{recipe.version}: {size} bytes")


if __name__ == "__main__":
    for one in RECIPES:
        make(one)
