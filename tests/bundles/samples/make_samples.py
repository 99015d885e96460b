# mypy: ignore-errors
"""Make the samples with the libraries that write such files in the world.

Run it by hand, in an environment of its own:

    python3 -m venv /tmp/torch
    /tmp/torch/bin/pip install torch==2.13.0 numpy==2.4.6 scikit-learn==1.9.1
    /tmp/torch/bin/python tests/bundles/samples/make_samples.py

`good/` must pass; `refused/` holds what people do ship, and are told how to save instead.
"""

from __future__ import annotations

import collections
import pickle
import warnings
from pathlib import Path

import joblib
import numpy as np
import torch
from sklearn import compose, ensemble, linear_model, model_selection, neighbors, preprocessing
from sklearn.pipeline import make_pipeline
from torch import nn

warnings.simplefilter("ignore")
HERE = Path(__file__).resolve().parent
GOOD, REFUSED = HERE / "good", HERE / "refused"
torch.manual_seed(1)
rng = np.random.default_rng(1)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.lstm = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.LSTM(3, 2)


class Part(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.shift = nn.Linear(2, 2), torch.ones(3)

    def forward(self, x):
        return self.linear(x) + 3


class Whole(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.rest = Part(), nn.ModuleList([Part()])
        self.sizes, self.rates, self.flags = [1, 2], [1.0], [True]
        self.tensors, self.names = [torch.ones(1)], {"a": 1}

    def forward(self, x):
        y = self.first(x)
        for part in self.rest:
            y = part(y)
        return y + torch.tensor([[1.0, 2.0]])


def torch_samples() -> None:
    model = nn.Linear(3, 2)
    optimiser = torch.optim.Adam(model.parameters())
    model(torch.ones(3)).sum().backward()
    optimiser.step()
    marked = nn.Linear(2, 1).weight
    marked.note = "an attribute of its own"
    checkpoint = {
        "epoch": 3, "best": float("inf"), "args": {"lr": 1e-3, "shape": (1, 2)}, "big": 2**70,
        "model": model.state_dict(), "optimiser": optimiser.state_dict(), "names": {"a", "b"},
        "scale": np.float64(3), "mean": np.arange(3.0), "raw": b"xyz", "z": 1 + 2j, "w": marked,
        "size": torch.Size([1, 2]), "dtype": torch.float32, "device": torch.device("cpu"),
        "sparse": torch.eye(3).to_sparse(), "csr": torch.eye(3).to_sparse_csr(),
        "order": collections.OrderedDict(a=1), "meta": torch.empty(3, device="meta"),
    }  # fmt: skip
    torch.save(checkpoint, GOOD / "checkpoint.pt")
    torch.save(Net().state_dict(), GOOD / "conv_norm_lstm.pt")
    kinds = ["bfloat16", "float16", "float64", "int8", "uint8", "bool", "complex64", "uint16"]
    tensors = {kind: torch.ones(3).to(getattr(torch, kind)) for kind in kinds}
    tensors["float8"] = torch.ones(3).to(torch.float8_e4m3fn)
    tensors["per_tensor"] = torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8)
    scales, zeros = torch.tensor([0.1, 0.2]), torch.tensor([0, 0])
    tensors["per_channel"] = torch.quantize_per_channel(
        torch.ones(2, 4), scales, zeros, 0, torch.quint8
    )
    torch.save(tensors, GOOD / "many_types.pt")
    quantised = torch.ao.quantization.quantize_dynamic(
        nn.Sequential(nn.Linear(2, 2)), {nn.Linear}, dtype=torch.qint8
    )
    torch.save(quantised.state_dict(), GOOD / "dynamic_quantised.pt")
    torch.save(model.state_dict(), GOOD / "protocol_5.pt", pickle_protocol=5)
    extra = {"info.json": "{}", "features.txt": "close\nvolume\nspread\n"}
    torch.jit.save(torch.jit.script(Part()), str(GOOD / "script_extra.pt"), _extra_files=extra)
    frozen = torch.jit.freeze(torch.jit.script(Whole()).eval())
    frozen.save(str(GOOD / "script_frozen.pt"))
    torch.jit.script(Whole()).save(str(GOOD / "script_parts.pt"))
    torch.save(nn.Sequential(nn.ReLU()), REFUSED / "whole_module.pt")
    old = REFUSED / "before_1_6.pt"
    torch.save(model.state_dict(), old, _use_new_zipfile_serialization=False)


def sklearn_samples() -> None:
    x = rng.normal(size=(40, 3))
    y = (x[:, 0] > 0).astype(int)
    scaler = preprocessing.StandardScaler().fit(x)
    columns = compose.ColumnTransformer(
        [("log", preprocessing.FunctionTransformer(np.log1p), [0]),
         ("scale", preprocessing.RobustScaler(), [1])], remainder="passthrough",
    )  # fmt: skip
    boosted = ensemble.HistGradientBoostingClassifier(max_iter=2, random_state=0)
    models = {
        "columns": columns.fit(abs(x)),
        "boosted": boosted.fit(x, y),
        "forest": ensemble.IsolationForest(n_estimators=2, max_samples=8, random_state=0).fit(x),
        "search": model_selection.GridSearchCV(
            make_pipeline(preprocessing.StandardScaler(), linear_model.Ridge()),
            {"ridge__alpha": [1, 2]}, cv=2,
        ).fit(x, y),
        "neighbours": neighbors.KNeighborsClassifier(algorithm="kd_tree").fit(x[:8], y[:8]),
        "scalers": {
            "scaler": scaler, "columns": ["a"], "n": np.int64(3), "d": np.dtype("f8"), "s": {1, 2},
            "when": np.datetime64("2025-01-01"), "struct": np.zeros(2, dtype=[("a", "f4")]),
            "object": np.array(["a", None], dtype=object), "text": np.array(["a"]),
            "masked": np.ma.array([1, 2], mask=[0, 1]), "rng": np.random.default_rng(1),
            "b": bytearray(b"x"), "r": range(3),
        },
    }  # fmt: skip
    protocols = {"scalers": (0, 5)}
    for name, model in models.items():
        for protocol in protocols.get(name, (4,)):
            path = GOOD / f"{name}_{protocol}.pkl"
            path.write_bytes(pickle.dumps(model, protocol=protocol))
    joblib.dump(scaler, REFUSED / "joblib.pkl")
    joblib.dump(scaler, REFUSED / "joblib_packed.pkl", compress=3)


if __name__ == "__main__":
    for folder in (GOOD, REFUSED):
        folder.mkdir(exist_ok=True)
    torch_samples()
    sklearn_samples()
