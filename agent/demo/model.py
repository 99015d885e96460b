"""Load a bundle and decide with it, without torch: what the demo's trading process trades by.

A `.pt` file is a zip whose `data.pkl` names tensors and whose `data/N` members hold their raw
little-endian numbers. The pickle is read by an unpickler that knows a handful of names (those of
tensors, of numpy arrays and of one scaler class) and refuses every other, so nothing in a file can
run. Arithmetic is plain Python on lists: a forward pass of these small networks takes about 0.1 ms.
"""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from array import array
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import tanh
from operator import mul
from typing import Any

import yaml

Row = list[float]


class ModelError(Exception):
    """A file of the bundle is not one that this trader can load; the message names the file."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A dense layer: `weights[out][in]` and `bias[out]`."""

    weights: list[Row]
    bias: Row

    def __call__(self, inputs: Sequence[float]) -> Row:
        pairs = zip(self.weights, self.bias, strict=True)
        return [sum(map(mul, row, inputs)) + bias for row, bias in pairs]

    @property
    def size(self) -> int:
        """Number of parameters."""
        return len(self.weights) * len(self.weights[0]) + len(self.bias)


@dataclass(frozen=True, slots=True)
class Model:
    """One loaded bundle: scaler, policy and value function, and what config.yaml asks for."""

    version: str
    mean: Row
    scale: Row
    policy: list[Layer]
    value: list[Layer]
    lookback: int
    var_confidence: float
    var_limit: float
    max_position: int

    @property
    def parameters(self) -> int:
        """Number of parameters of policy and value function together."""
        return sum(layer.size for layer in (*self.policy, *self.value))

    def decide(self, observation: Sequence[float]) -> tuple[int, float]:
        """The action with the highest Q value (0 is sell most, the last is buy most) and the
        value of the state.

        Raises:
            ValueError: the observation has another length than the scaler was fitted on.
        """
        scaled = [
            (x - mean) / scale
            for x, mean, scale in zip(observation, self.mean, self.scale, strict=True)
        ]
        hidden = scaled
        for layer in self.policy[:-1]:
            hidden = [max(0.0, x) for x in layer(hidden)]
        q_values = self.policy[-1](hidden)
        body, head = self.value
        worth = head([tanh(x) for x in body(scaled)])[0]
        return q_values.index(max(q_values)), worth


def load(files: Mapping[str, bytes]) -> Model:
    """Read a bundle's files by name.

    Raises:
        ModelError: a file is missing, damaged, or not of the shape that the demo's bundles have.
    """
    try:
        config = yaml.safe_load(files["config.yaml"])
        metadata = json.loads(files["metadata.json"])
        risk = config["risk"]
        mean, scale = read_scaler(files["feature_scaler.pkl"])
        policy = _named(read_tensors(files["policy.pt"]), ["q_net.0", "q_net.2", "q_net.4"])
        value = _named(read_tensors(files["value_function.pt"]), ["body", "head"])
        return Model(
            version=str(metadata["version"]),
            mean=mean,
            scale=scale,
            policy=policy,
            value=value,
            lookback=int(risk["var_lookback"]),
            var_confidence=float(risk["var_confidence"]),
            var_limit=float(risk["var_limit"]),
            max_position=int(risk["max_position"]),
        )
    except ModelError:
        raise
    except KeyError as error:
        raise ModelError(f"the bundle lacks {error}") from error
    except (ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise ModelError(f"the bundle cannot be read: {type(error).__name__}") from error


def _named(tensors: Mapping[str, Tensor], names: Sequence[str]) -> list[Layer]:
    layers = []
    for name in names:
        weight, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
        rows, columns = weight.shape
        weights = [list(weight.values[r * columns : (r + 1) * columns]) for r in range(rows)]
        layers.append(Layer(weights, list(bias.values)))
    return layers


@dataclass(frozen=True, slots=True)
class Tensor:
    """Numbers in row order, and their shape."""

    values: array[float]
    shape: tuple[int, ...]


def read_tensors(data: bytes) -> dict[str, Tensor]:
    """Every float32 tensor of a `.pt` file, by dotted name: state_dict and TorchScript alike.

    Raises:
        ModelError: not such a zip, a member's CRC is wrong, or its pickle names something else.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
        root = _Reader(members["data.pkl"], members).load()
    except (zipfile.BadZipFile, KeyError, pickle.UnpicklingError, EOFError) as error:
        raise ModelError(f"not a sound .pt file: {error}") from error
    found: dict[str, Tensor] = {}
    _collect(root, "", found)
    return found


def read_scaler(data: bytes) -> tuple[Row, Row]:
    """`mean_` and `scale_` of a pickled scikit-learn StandardScaler.

    Raises:
        ModelError: the pickle is damaged or names anything but a scaler and its arrays.
    """
    try:
        state = _Reader(data, {}).load().__dict__
        return list(state["mean_"].values), list(state["scale_"].values)
    except (pickle.UnpicklingError, EOFError, KeyError, AttributeError) as error:
        raise ModelError(f"not a sound scaler: {error}") from error


def _collect(node: Any, prefix: str, found: dict[str, Tensor]) -> None:
    children = node if isinstance(node, dict) else vars(node) if isinstance(node, _Node) else {}
    for name, child in children.items():
        if isinstance(child, Tensor):
            found[prefix + name] = child
        else:
            _collect(child, f"{prefix}{name}.", found)


class _Node:
    """Stands for any module object of a TorchScript file, and for the scaler: state, no code."""


class _Float64:
    """Stands for numpy's dtype; the only one accepted is little-endian float64."""

    def __init__(self, code: str, *_rest: object) -> None:
        if code != "f8":
            raise pickle.UnpicklingError(f"array of {code!r}, expected 'f8'")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] != "<":
            raise pickle.UnpicklingError("array is not little-endian")


class _Array:
    """Stands for numpy's ndarray while its state is set."""

    values: array[float]

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, _shape, _dtype, _fortran, raw = state
        self.values = array("d", raw)


def _rebuild_tensor(
    storage: array[float], offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object
) -> Tensor:
    count, expected = 1, []
    for length in reversed(size):
        expected.append(count)
        count *= length
    if tuple(reversed(expected)) != tuple(stride):
        raise pickle.UnpicklingError("a tensor is not stored in row order")
    if offset + count > len(storage):
        raise pickle.UnpicklingError("a tensor reaches past its storage")
    return Tensor(storage[offset : offset + count], tuple(size))


_KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "FloatStorage"): "float32",
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("sklearn.preprocessing._data", "StandardScaler"): _Node,
    ("numpy", "dtype"): _Float64,
    ("numpy", "ndarray"): _Array,
    ("numpy._core.multiarray", "scalar"): lambda _dtype, raw: raw,
    ("numpy._core.multiarray", "_reconstruct"): lambda _kind, _shape, _code: _Array(),
}


class _Reader(pickle.Unpickler):
    """Reads the two kinds of pickle above; every name that it does not know is refused."""

    def __init__(self, data: bytes, members: Mapping[str, bytes]) -> None:
        super().__init__(io.BytesIO(data))
        self._members = members

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".", 1)[0] == "__torch__":
            return _Node
        try:
            return _KNOWN[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"refused to import {module}.{name}") from None

    def persistent_load(self, pid: Any) -> array[float]:
        kind, dtype, key, _device, _length = pid
        if kind != "storage" or dtype != "float32":
            raise pickle.UnpicklingError("only float32 storages are read")
        return array("f", self._members[f"data/{key}"])
