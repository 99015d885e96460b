"""A `.pt` file is proved byte by byte, and every pickle in it is found."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.bundles.errors import RejectedError
from agent.bundles.torchfile import check_torch_file
from tests.bundles.hostile import CALLS, HOSTILE, archive, patched, records_of

SAMPLES = Path(__file__).parent / "samples"
DEMO = Path(__file__).parents[2] / "agent" / "demo" / "bundles"
REAL = sorted([*SAMPLES.glob("good/*.pt"), *DEMO.glob("*/*.pt")])
POLICY = (DEMO / "v2025-07-06" / "policy.pt").read_bytes()
SCRIPT = (DEMO / "v2025-07-06" / "value_function.pt").read_bytes()


def check(data: bytes) -> str:
    return check_torch_file(io.BytesIO(data), len(data), "policy.pt")


def with_records(data: bytes, **changed: bytes) -> bytes:
    return archive(records_of(data) | changed)


@pytest.mark.parametrize("path", REAL, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_pytorch_really_writes_passes(path: Path) -> None:
    script = path.name.startswith(("script", "value"))
    assert check(path.read_bytes()) == ("torchscript" if script else "state_dict")


@pytest.mark.parametrize(
    ("name", "reason"),
    [("before_1_6.pt", "before 1.6"), ("whole_module.pt", "torch.nn.*not allowed")],
)
def test_what_people_ship_by_mistake_is_refused_with_a_remedy(name: str, reason: str) -> None:
    with pytest.raises(RejectedError, match=reason) as told:
        check((SAMPLES / "refused" / name).read_bytes())
    assert "save" in told.value.remedy


def test_an_archive_written_by_python_passes_as_well() -> None:
    assert check(archive(records_of(POLICY))) == "state_dict"
    assert check(archive(records_of(SCRIPT), method=zipfile.ZIP_DEFLATED)) == "torchscript"


@pytest.mark.parametrize("data", [POLICY, SCRIPT], ids=["policy", "script"])
def test_no_byte_of_a_record_can_change_unnoticed(data: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(data)) as packed:
        members = packed.infolist()
    for member in members:
        at = data.index(member.filename.encode(), member.header_offset) + len(member.filename)
        at += int.from_bytes(data[member.header_offset + 28 : member.header_offset + 30], "little")
        changed = bytearray(data)
        changed[at + member.compress_size // 2] ^= 0x55
        with pytest.raises(RejectedError):
            check(bytes(changed))


@pytest.mark.parametrize("count", [1, 22, 100, 5000])
def test_a_file_that_is_cut_short_or_has_bytes_more_is_refused(count: int) -> None:
    for data in (POLICY[:-count], POLICY[count:], POLICY + b"x" * count, b"x" * count + POLICY):
        with pytest.raises(RejectedError):
            check(data)


@pytest.mark.parametrize("what", [name for name, raw in HOSTILE.items() if raw])
def test_a_hostile_data_pkl_is_refused(what: str) -> None:
    with pytest.raises(RejectedError, match=r"data\.pkl"):
        check(with_records(POLICY, **{"data.pkl": HOSTILE[what]}))


@pytest.mark.parametrize("what", CALLS)
@pytest.mark.parametrize("name", ["data/0", "extra/notes.txt", ".data/x", "data.pkl.bak", "x.bin"])
def test_a_hostile_pickle_is_found_under_any_name(what: str, name: str) -> None:
    for data in (POLICY, SCRIPT):
        with pytest.raises(RejectedError, match="policy/"):
            check(with_records(data, **{name: CALLS[what]}))


def test_an_archive_within_the_archive_is_refused() -> None:
    with pytest.raises(RejectedError, match="archive within"):
        check(with_records(POLICY, **{"extra/x": archive({"data.pkl": b"N."})}))


@pytest.mark.parametrize(
    ("signature", "offset", "form", "value"),
    [
        (b"PK\3\4", 6, "<H", 0x1),  # encrypted, says the header alone
        (b"PK\1\2", 8, "<H", 0x1),  # encrypted, says the directory alone
        (b"PK\1\2", 8, "<H", 0x40),
        (b"PK\1\2", 10, "<H", 14),  # packed by another method
        (b"PK\3\4", 8, "<H", 8),
        (b"PK\1\2", 16, "<L", 7),  # another CRC
        (b"PK\3\4", 14, "<L", 7),
        (b"PK\1\2", 24, "<L", 7),  # another size
        (b"PK\1\2", 20, "<L", 7),
        (b"PK\1\2", 42, "<L", 7),  # another place
        (b"PK\1\2", 38, "<L", 0o120777 << 16),  # a link
        (b"PK\5\6", 8, "<H", 3),  # fewer members
        (b"PK\5\6", 20, "<H", 5),  # a comment
        (b"PK\5\6", 16, "<L", 3),
        (b"PK\3\4", 26, "<H", 3),  # a shorter name
    ],
)
def test_an_archive_that_disagrees_with_itself_is_refused(
    signature: bytes, offset: int, form: str, value: int
) -> None:
    data = archive(records_of(POLICY))
    made_on_unix = patched(data, b"PK\1\2", 4, "<H", 0x0314)
    with pytest.raises(RejectedError):
        check(patched(made_on_unix, signature, offset, form, value))
    assert check(made_on_unix) == "state_dict"


@pytest.mark.parametrize(
    "name", ["../x", "/x", "a\\b", "DATA.PKL", "data.pkl/x", "a\nb", "a//b", "folder/"]
)
def test_a_member_of_a_bad_name_is_refused(name: str) -> None:
    with pytest.raises(RejectedError):
        check(with_records(POLICY, **{name: b"x"}))


def test_a_second_root_and_a_doubled_name_are_refused() -> None:
    for name in ("other/x", "policy/data.pkl", "loose"):
        packed = io.BytesIO(archive(records_of(POLICY)))
        with zipfile.ZipFile(packed, "a") as more, pytest.warns() if "data" in name else _quiet():
            more.writestr(name, b"x")
        with pytest.raises(RejectedError):
            check(packed.getvalue())


class _quiet:  # noqa: N801 - a context manager beside pytest.warns
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def test_a_bomb_is_refused_before_it_is_unpacked() -> None:
    bomb = archive(records_of(SCRIPT) | {"code/x.py": b"\0" * (70 << 20)}, method=8)
    assert len(bomb) < 100_000
    with pytest.raises(RejectedError, match="bytes"):
        check(bomb)


def test_many_small_pickles_are_given_up_as_surely_as_a_large_one() -> None:
    long = b"\x80\x04" + b"N0" * 49_000 + b"N."
    with pytest.raises(RejectedError, match="opcodes"):
        check(archive(records_of(POLICY) | {f"x/{n}": long for n in range(45)}, method=8))


def test_many_small_bombs_are_refused_as_surely_as_a_large_one() -> None:
    with pytest.raises(RejectedError, match="unpacks to more"):
        check(archive(records_of(POLICY) | {f"x/{n}": bytes(9 << 20) for n in range(9)}, method=8))


def test_a_member_that_unpacks_to_more_than_it_says_is_refused() -> None:
    data = archive({"version": b"3\n", "data.pkl": b"N.", "x": b"a" * 5000}, method=8)
    at = data.rindex(b"PK\1\2")
    lied = bytearray(data)
    lied[at + 24 : at + 28] = (10).to_bytes(4, "little")
    header = data.rindex(b"PK\3\4")
    lied[header + 22 : header + 26] = (10).to_bytes(4, "little")
    with pytest.raises(RejectedError):
        check(bytes(lied))


@pytest.mark.parametrize("name", ["data.pkl", "version", "constants.pkl", "code/__torch__.py"])
def test_a_file_without_a_record_that_the_loader_needs_is_refused(name: str) -> None:
    records = records_of(SCRIPT)
    del records[name]
    if name == "code/__torch__.py":
        records = {key: raw for key, raw in records.items() if not key.startswith("code/")}
    with pytest.raises(RejectedError):
        check(archive(records))


@pytest.mark.parametrize(
    ("name", "raw"), [("version", b"x"), ("version", b""), ("byteorder", b"?")]
)
def test_version_and_byte_order_must_say_what_they_are_for(name: str, raw: bytes) -> None:
    with pytest.raises(RejectedError, match=name):
        check(with_records(POLICY, **{name: raw}))


def test_a_tensor_whose_bytes_are_missing_or_too_few_is_refused() -> None:
    records = records_of(POLICY)
    with pytest.raises(RejectedError, match="data/2"):
        check(archive(records | {"data/2": records["data/2"][:-4]}))
    del records["data/2"]
    with pytest.raises(RejectedError, match="data/2, which is missing"):
        check(archive(records))


@pytest.mark.parametrize(
    "call",
    [b'torch.save(x, "/tmp/x")', b'torch.from_file("/etc/passwd")', b'ops.aten.save(x, "f")',
     b"torch . save(x)", b"rpc_async(a)"],
)  # fmt: skip
def test_torchscript_code_that_touches_files_is_refused(call: bytes) -> None:
    code = records_of(SCRIPT)["code/__torch__.py"]
    with pytest.raises(RejectedError, match="outside the model"):
        check(with_records(SCRIPT, **{"code/__torch__.py": code + b"    " + call + b"\n"}))


def test_torchscript_classes_are_refused_where_torch_would_load_python_classes() -> None:
    records = records_of(POLICY)
    records["data.pkl"] = records_of(SCRIPT)["data.pkl"]
    with pytest.raises(RejectedError, match=r"__torch__.*not allowed"):
        check(archive(records))


@pytest.mark.parametrize(
    "data", [b"", b"x", b"PK\5\6" + b"\0" * 18, pickle.dumps({}), b"version https://git-lfs.github"]
)
def test_what_is_no_archive_is_refused(data: bytes) -> None:
    with pytest.raises(RejectedError):
        check(data)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(REAL), st.data())
def test_a_real_file_with_bytes_changed_is_accepted_or_refused_and_nothing_else(
    path: Path, data: st.DataObject
) -> None:
    raw = bytearray(path.read_bytes())
    directory = raw.index(b"PK\1\2")
    for _ in range(data.draw(st.integers(1, 4))):
        low = data.draw(st.sampled_from([0, min(directory, len(raw) - 1)]))
        at = data.draw(st.integers(low, len(raw) - 1))
        if data.draw(st.booleans()):
            raw[at] = data.draw(st.sampled_from([0, 1, 8, 0x7F, 0x80, 0xFF]))
        else:
            raw[at : at + data.draw(st.integers(0, 30))] = data.draw(st.binary(max_size=30))
        if not raw:
            break
    try:
        check(bytes(raw))
    except RejectedError as error:
        assert str(error).isprintable()
