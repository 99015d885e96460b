"""Hostile pickles and archives, made by hand, opcode by opcode."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Callable


def short(text: str) -> bytes:
    """SHORT_BINUNICODE."""
    data = text.encode()
    return b"\x8c" + bytes([len(data)]) + data


def stack_global(module: str, name: str) -> bytes:
    return short(module) + short(name) + b"\x93"


def line_global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


class _Call:
    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.made = (function, arguments)

    def __reduce__(self) -> tuple[object, ...]:
        return self.made


def dumped(protocol: int, function: Callable[..., object], *arguments: object) -> bytes:
    return pickle.dumps({"weights": [1.0, _Call(function, *arguments)]}, protocol=protocol)


def _system() -> Callable[..., object]:
    import os

    return os.system


def _corpus() -> dict[str, bytes]:
    run = short("true") + b"\x85R."
    found: dict[str, bytes] = {}
    for protocol in range(6):
        for name, function in (("system", _system()), ("eval", eval), ("getattr", getattr)):
            found[f"{name} by protocol {protocol}"] = dumped(protocol, function, "1", "2")
    for module, name in (
        ("os", "system"), ("posix", "system"), ("nt", "system"), ("subprocess", "Popen"),
        ("builtins", "exec"), ("builtins", "eval"), ("builtins", "compile"),
        ("builtins", "getattr"), ("builtins", "__import__"), ("builtins", "open"),
        ("builtins", "type"), ("builtins", "breakpoint"), ("builtins", "print"),
        ("__builtin__", "eval"), ("__builtin__", "apply"), ("importlib", "import_module"),
        ("operator", "attrgetter"), ("operator", "methodcaller"), ("functools", "partial"),
        ("functools", "reduce"), ("pickle", "loads"), ("_pickle", "loads"), ("marshal", "loads"),
        ("types", "FunctionType"), ("types", "CodeType"), ("runpy", "run_path"), ("pty", "spawn"),
        ("timeit", "timeit"), ("code", "interact"), ("pdb", "run"), ("bdb", "Bdb"),
        ("cProfile", "run"), ("socket", "socket"), ("shutil", "rmtree"), ("ctypes", "CDLL"),
        ("webbrowser", "open"), ("asyncio", "run"), ("logging.config", "listen"),
        ("urllib.request", "urlopen"), ("http.client", "HTTPSConnection"), ("pip", "main"),
        ("numpy", "load"), ("numpy", "fromfile"), ("numpy", "memmap"), ("numpy", "os.system"),
        ("numpy.f2py.crackfortran", "param_eval"), ("numpy.testing._private.utils", "runstring"),
        ("joblib", "load"), ("joblib.numpy_pickle", "NumpyArrayWrapper"), ("torch", "load"),
        ("torch.hub", "load"), ("torch.jit", "load"), ("torch.serialization", "load"),
        ("torch._inductor.codecache", "compile_file"), ("torch.utils.collect_env", "run"),
        ("torch.storage", "_load_from_bytes"), ("torch", "os.system"),
        ("sklearn.datasets", "fetch_openml"), ("sklearn.utils", "os.system"),
        ("sklearn.preprocessing._data", "StandardScaler.fit"), ("sklearn", "externals"),
        ("collections", "OrderedDict.fromkeys"), ("collections", "_sys.exit"),
        ("datetime", "sys.modules"), ("pathlib", "os.system"), ("pathlib", "Path"),
        ("copyreg", "add_extension"), ("copyreg", "__newobj__"), ("_codecs", "lookup"),
        ("__torch__", "Evil"), ("__main__", "Model"), ("", "system"), ("os.system", ""),
    ):  # fmt: skip
        found[f"STACK_GLOBAL {module}.{name}"] = b"\x80\x04" + stack_global(module, name) + run
        found[f"GLOBAL {module}.{name}"] = b"\x80\x02" + line_global(module, name) + b"N\x85R."
    good = stack_global("collections", "OrderedDict")
    found |= {
        "text protocol without mark": b"cos\nsystem\n(S'true'\ntR.",
        "INST": b"(X\x04\x00\x00\x00trueios\nsystem\n.",
        "INST of something good": b"(icollections\nOrderedDict\n0cos\nsystem\n.",
        "OBJ": b"(cos\nsystem\nX\x04\x00\x00\x00trueo.",
        "OBJ of what was built": b"\x80\x04(" + good + b")Ro.",
        "NEWOBJ": b"\x80\x04" + stack_global("subprocess", "Popen") + short("true") + b"\x85\x81.",
        "NEWOBJ_EX": b"\x80\x04" + stack_global("subprocess", "Popen") + b")}\x92.",
        "EXT1": b"\x80\x02\x82\x01)R.",
        "EXT2": b"\x80\x02\x83\x01\x00)R.",
        "EXT4": b"\x80\x02\x84\x01\x00\x00\x00)R.",
        "names through the memo": b"\x80\x04" + short("os") + b"\x940" + short("system")
        + b"\x940h\x00h\x01\x93" + run,
        "names through PUT and GET": b"Vos\np7\n0Vsystem\np8\n0g7\ng8\n\x93(Vtrue\ntR.",
        "memo overwritten": b"\x80\x04" + short("collections") + b"q\x000" + short("os")
        + b"q\x000h\x00" + short("system") + b"\x93" + run,
        "memo by MEMOIZE after BINPUT": b"\x80\x04" + short("os") + b"q\x01\x940"
        + short("system") + b"h\x01\x93.",
        "name from a call": b"\x80\x04" + stack_global("builtins", "str") + short("os")
        + b"\x85R" + short("system") + b"\x93" + run,
        "name from a byte string": b"\x80\x02U\x02osU\x06system\x93)R.",
        "name by DUP": b"\x80\x04" + short("os") + b"20" + short("system") + b"\x93" + run,
        "call of what a call gave": b"\x80\x04" + good + b")R)R.",
        "call of a tuple": b"\x80\x04))R.",
        "BUILD on a class": b"\x80\x04" + good + b"}" + short("__call__") + good + b"sb.",
        "SETITEM on a class": b"\x80\x04" + good + short("a") + short("b") + b"s.",
        "APPEND to a class": b"\x80\x04" + good + b"Na.",
        "nested in bytes that a good call decodes": b"\x80\x04" + stack_global("pickle", "loads")
        + b"C\x01.\x85R.",
        "bad name that is thrown away": b"\x80\x04" + stack_global("os", "system") + b"0N.",
        "bad name before garbage": b"\x80\x04" + stack_global("os", "system") + b"\xff\xff",
        "second pickle behind the first": b"\x80\x04N." + dumped(4, _system(), "true"),
        "persistent id": b"\x80\x02X\x01\x00\x00\x00aQ.",
        "text persistent id": b"Pabc\n.",
        "out-of-band buffer": b"\x80\x05\x97.",
        "read-only buffer": b"\x80\x05N\x98.",
        "empty": b"",
        "only a mark": b"\x80\x04",
        "no STOP": b"\x80\x04N",
        "two objects": b"\x80\x04NN.",
        "nothing on the stack": b"\x80\x04.",
        "unknown protocol": b"\x80\xffN.",
        "unknown opcode": b"\x80\x04\xfeN.",
        "tuple through a mark": b"\x80\x04(\x85.",
        "memo index that was never stored": b"\x80\x04h\x05.",
        "memo index of four billion": b"\x80\x04Nr\xff\xff\xff\xff.",
        "text that does not end": b"\x80\x02Vabc",
        "name that does not end": b"\x80\x02cos\nsystem",
        "huge FRAME": b"\x80\x04\x95" + b"\xff" * 8 + b"N.",
        "huge BINBYTES8": b"\x80\x04\x8e" + b"\xff" * 8 + b"N.",
        "huge BYTEARRAY8": b"\x80\x05\x96" + b"\xff" * 8 + b"N.",
        "huge BINUNICODE8": b"\x80\x04\x8d" + b"\xff" * 8 + b"N.",
        "huge BINUNICODE": b"\x80\x04X\xff\xff\xff\xffN.",
        "huge LONG4": b"\x80\x04\x8b\xff\xff\xff\x7fN.",
        "negative LONG4": b"\x80\x04\x8b\xff\xff\xff\xffN.",
        "long decimal": b"L" + b"9" * 100_000 + b"L\n.",
        "bad decimal": b"Iabc\n.",
        "negative memo index": b"Np-1\n.",
        "bad UTF-8": b"\x80\x04\x8c\x02\xff\xfe.",
    }  # fmt: skip
    return found


HOSTILE = _corpus()
"""What is wrong → bytes that must be refused as a pickle."""

CALLS = {
    name: data
    for name, data in HOSTILE.items()
    if data[:1] == b"\x80" and name.startswith(("STACK_GLOBAL os", "system by", "names through"))
} | {"text protocol": b"cos\nsystem\n(Vtrue\ntR.", "INST": HOSTILE["INST"]}
"""Those that a record of any name is refused for."""


def archive(
    records: dict[str, bytes], root: str = "policy", method: int = zipfile.ZIP_STORED
) -> bytes:
    """A plain archive as Python writes it."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as into:
        for name, data in records.items():
            into.writestr(f"{root}/{name}" if root else name, data)
    return packed.getvalue()


def records_of(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as packed:
        return {name.partition("/")[2]: packed.read(name) for name in packed.namelist()}


def patched(data: bytes, signature: bytes, offset: int, form: str, value: int) -> bytes:
    """The archive with one field of the first record that has `signature` replaced."""
    changed = bytearray(data)
    struct.pack_into(form, changed, data.index(signature) + offset, value)
    return bytes(changed)
