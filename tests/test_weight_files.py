"""Files of weights give the numbers that were saved, or one sentence says why they give none."""

import errno
import os
import pathlib
import struct
import sys
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest

from orderscale_jax.convert import read_arrays

ADVICE = ("save", "give a", "rename it")
MOST_MEMORY = 20e6  # bytes that the smallest file may take


def assert_same(arrays, expected):
    assert list(arrays) == list(expected)
    for name in expected:
        assert arrays[name].dtype == expected[name].dtype and arrays[name].shape == expected[name].shape
        assert arrays[name].tobytes() == expected[name].tobytes()


def assert_refused(path, said="is not"):
    """One sentence, and no more memory than a small file may take."""
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=said) as error:
            read_arrays(path)
        assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY + 3 * min(path.stat().st_size, 1 << 20)
    finally:
        tracemalloc.stop()
    text = str(error.value)
    assert text.startswith(f"{path} ") and "\n" not in text and any(word in text for word in ADVICE)
    assert len(text) < len(str(path)) + 250


def share_that_loads(path, monkeypatch):
    """Of all single-bit flips of a file; they may load with the same numbers only."""
    content, expected, n_loaded = bytearray(path.read_bytes()), read_arrays(path), 0
    monkeypatch.setattr(pathlib.Path, "read_bytes", lambda _: bytes(content))
    for bit in range(8 * len(content)):
        content[bit // 8] ^= 1 << bit % 8
        try:
            arrays = read_arrays(path)
        except ValueError:
            continue
        finally:
            content[bit // 8] ^= 1 << bit % 8
        assert_same(arrays, expected)
        n_loaded += 1
    return n_loaded / (8 * len(content))


# PyTorch's files.


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def state_dicts(torch):
    numbers = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    kinds = "float32 float64 float16 bfloat16 int64 int32 int16 int8 uint8 bool complex64 complex128"
    marked = torch.ones(3)
    marked.attribute = [1]
    layer = torch.nn.Linear(3, 2)
    return {
        "kinds": {kind: numbers.to(getattr(torch, kind)) for kind in kinds.split()},
        "views": {
            "transposed": numbers.T,
            "part": numbers[2:4, 1:],
            "steps": numbers[::2],
            "tied": numbers,
            "half part": numbers.bfloat16()[1:].T,
            "scalar": torch.tensor(3.0),
            "half scalar": torch.tensor(3.0).bfloat16(),
            "empty": torch.ones(0, 5),
        },
        "parameters": {
            "learned": torch.nn.Parameter(numbers.clone()),
            "fixed": torch.nn.Parameter(numbers.clone(), requires_grad=False),
            "with an attribute": marked,
        },
        "module": layer.state_dict(),
        "module's own": layer.state_dict(keep_vars=True),
    }


@pytest.mark.parametrize("kind", ["kinds", "views", "parameters", "module", "module's own"])
def test_every_tensor_has_the_numbers_that_torch_reads(torch, tmp_path, monkeypatch, kind):
    torch.save(state_dicts(torch)[kind], tmp_path / "a.pt")
    theirs = torch.load(tmp_path / "a.pt", weights_only=True)
    expected = {
        name: (tensor.float() if tensor.is_floating_point() else tensor).detach().numpy()
        for name, tensor in theirs.items()
    }
    monkeypatch.setitem(sys.modules, "torch", None)  # which is not needed
    assert_same(read_arrays(tmp_path / "a.pt"), expected)


NO_PLAIN_TENSORS = {
    "sparse, save its to_dense": lambda torch: torch.eye(2).to_sparse(),
    "sparse, .* to_dense": lambda torch: torch.eye(2).to_sparse_csr(),
    "no numbers .device meta.": lambda torch: torch.ones(2, device="meta"),
    "quantised, .* dequantize": lambda torch: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
    "negated lazily, .* resolve_neg": lambda torch: torch.ones(2, dtype=torch.complex64).conj().imag,
    "unusual type, save its float": lambda torch: torch.ones(2).to(torch.float8_e4m3fn),
    "no plain tensor": lambda torch: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    r"shape \[2000, 2000\], for which 1 .* contiguous": lambda torch: torch.ones(1).expand(2000, 2000),
}


@pytest.mark.filterwarnings("ignore")  # of PyTorch, while such tensors are made
@pytest.mark.parametrize("said", NO_PLAIN_TENSORS)
def test_a_tensor_that_is_no_plain_array_is_named(torch, tmp_path, said):
    tensor = NO_PLAIN_TENSORS[said](torch)
    torch.save({"embed.W_E": torch.ones(2), "unembed.W_U": tensor}, tmp_path / "a.pt")
    assert_refused(tmp_path / "a.pt", f"array unembed.W_U .*{said}")


def test_what_is_no_state_dict_is_refused(torch, tmp_path):
    numbers = torch.ones(50_000)
    cases = {
        "something else than a state_dict": torch.nn.Linear(2, 2),
        "something else .*state_dict": {"model": {"a": torch.ones(2)}, "step": 3, "rates": [0.1, None, True]},
        "name of an array": {"a\nb": torch.ones(2)},
        "the name of an": {3: torch.ones(2)},
        "name of an array is no short text": {"a" * 1000: torch.ones(2)},
        "share so many numbers": {str(i): numbers for i in range(500)},
    }
    for said, content in cases.items():
        torch.save(content, tmp_path / "a.pt")
        assert_refused(tmp_path / "a.pt", said)


def test_the_old_format_of_torch_is_refused_because_damage_would_not_be_noticed(torch, tmp_path):
    for protocol in (2, 4):
        torch.save(
            {"a": torch.ones(2)},
            tmp_path / "a.pt",
            pickle_protocol=protocol,
            _use_new_zipfile_serialization=False,
        )
        assert_refused(tmp_path / "a.pt", r"before 1\.6.*torch\.save\(torch\.load\(FILE\), FILE\)")


def test_no_flipped_bit_of_a_torch_file_gives_other_numbers(torch, tmp_path, monkeypatch):
    torch.save({"a": torch.nn.Parameter(torch.arange(1.0, 4.0))}, tmp_path / "a.pt")
    assert (
        0.1 < share_that_loads(tmp_path / "a.pt", monkeypatch) < 0.6
    )  # PyTorch leaves gaps between its arrays


def torch_file(path, pickle, n_stored=1, **members):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickle)
        archive.writestr("a/data/0", b"\0\0\x80\x3f" * n_stored)
        for name, content in members.items():
            archive.writestr(f"a/{name}", content)
    return path


def described(offset=0, shape=(1,), strides=(1,), n_stored=1, key="0") -> bytes:
    """The pickle of one tensor, as `torch.save` writes it."""

    def number(n):
        return b"J" + struct.pack("<i", n)

    def text(value):
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    def numbers(values):
        return b"(" + b"".join(map(number, values)) + b"t"

    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cpu") + number(n_stored)
    tensor = storage + b"tQ" + number(offset) + numbers(shape) + numbers(strides) + b"\x89N"
    return b"\x80\x02}" + text("a") + b"ctorch._utils\n_rebuild_tensor_v2\n(" + tensor + b"tRs."


def test_a_tensor_lies_in_what_is_stored(tmp_path):
    path = tmp_path / "a.pt"
    assert_same(read_arrays(torch_file(path, described())), {"a": np.ones(1, np.float32)})
    torch_file(path, described(offset=1, shape=(2, 2), strides=(1, 2), n_stored=5), n_stored=5)
    assert_same(read_arrays(path), {"a": np.ones((2, 2), np.float32)})
    for numbers in [
        {"offset": 1},
        {"offset": -1},
        {"shape": (2,)},
        {"shape": (2,), "strides": (0,)},
        {"shape": (-1, -1), "strides": (1, 1)},
        {"shape": (2**31 - 1,) * 3, "strides": (0,) * 3},
        {"shape": (1,) * 70, "strides": (1,) * 70},
        {"shape": (1, 1)},
        {"n_stored": 2},
        {"shape": (2,), "n_stored": 2},
        {"key": "1"},
    ]:
        assert_refused(torch_file(path, described(**numbers)))


PICKLES = {
    "nested too deeply to be hashed": b"\x80\x02})" + b"\x85" * 60_000 + b"K\x01s.",
    "many places to remember": b"\x80\x02]r\xff\xff\xff\x7f.",
    "text longer than the file": b"\x80\x02X" + struct.pack("<I", 1 << 31) + b"a.",
    "a parameter of itself": b"\x80\x02}X\1\0\0\0actorch._utils\n_rebuild_parameter\n]q\0Rq\1h\0h\1a0s.",
    "a name twice": b"\x80\x02}(X\1\0\0\0aNX\1\0\0\0aNu.",
    "a buffer of 10**10 bytes": b"\x80\x02}X\1\0\0\0ac__builtin__\nbytearray\n\x8a\5\0\xe4\x0bT\2\x85Rs.",
    "more than any model": b"\x80\x02" + b"N0" * (1 << 20) + b"}.",
    "no pickle": b"",
}


@pytest.mark.parametrize("kind", PICKLES)
def test_a_pickle_takes_no_more_than_its_size(tmp_path, kind):
    assert_refused(torch_file(tmp_path / "a.pt", PICKLES[kind]))


def test_a_big_endian_torch_file_is_read(tmp_path):
    path = torch_file(tmp_path / "a.pt", described(), byteorder=b"big")
    assert_same(read_arrays(path), {"a": np.frombuffer(b"\0\0\x80\x3f", ">f4").astype(np.float32)})


# NumPy's files.


def npy(shape="(3,)", kind="<f4", content=b"\0" * 12, version=1):
    header = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY" + struct.pack("<BBH", version, 0, len(header)) + header + content


def npz_file(path, *members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def test_npz_files_that_are_a_little_different_are_read(tmp_path):
    arrays = {
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big-endian": np.arange(3, dtype=">f4"),
        "half": np.ones(3, np.float16),
        "scalar": np.float64(3),
        "zeros": np.zeros((300, 300)),
    }
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **arrays)
        assert_same(read_arrays(tmp_path / "a.npz"), arrays)
    # A header of Python 2, about which NumPy warns.
    assert read_arrays(npz_file(tmp_path / "a.npz", ("a.npy", npy("(3L,)"))))["a"].shape == (3,)


@pytest.mark.parametrize(
    ("member", "said"),
    [
        (("a.npy", npy("(1000000000000,)")), "array a needs 4,000,000,000,000 bytes and has 12"),
        (("a.npy", npy("(4,)")), "array a needs 16 bytes and has 12"),
        (("a.npy", npy("(2,)")), "array a needs 8 bytes and has 12"),
        (("a.npy", npy("(-1, -3)")), "is damaged"),
        (("a.npy", npy("(100000000000000000000, 0)", content=b"")), "is damaged"),
        (("a.npy", npy(kind="|O", content=b"\0" * 24)), "array a holds Python objects"),
        (("a.npy", npy("-" * 9000 + "1")), "is damaged"),
        (("a.npy", npy(version=9)), "is damaged"),
        (("a.npy", b""), "is damaged"),
        (("a", npy()), "member a is no array"),
        (("a\nb.npy", npy()), "is damaged"),
    ],
)
def test_an_npz_file_of_other_members_is_refused(tmp_path, member, said):
    assert_refused(npz_file(tmp_path / "a.npz", ("b.npy", npy()), member), f"not an .npz file .*{said}")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_no_flipped_bit_of_an_npz_file_gives_other_numbers(tmp_path, monkeypatch, save):
    save(tmp_path / "a.npz", a=np.arange(1.0, 3.0), b=np.float32(1), c=np.ones(16, np.float32))
    assert share_that_loads(tmp_path / "a.npz", monkeypatch) < 0.4


# Every zip archive.


@pytest.mark.parametrize("name", ["a.npz", "a.pt"])
def test_archives_that_claim_too_much_are_refused(tmp_path, name):
    path, zeros = tmp_path / name, bytes(1 << 26)
    member = ("a/data.pkl", b"\x80\x02}.") if name == "a.pt" else ("b.npy", npy())
    npz_file(path, member, ("a.npy", zeros), compression=zipfile.ZIP_DEFLATED)
    assert_refused(path, "claim to hold 67,108")
    content = bytearray(path.read_bytes())
    entry = content.rfind(b"PK\1\2")
    content[entry + 16 : entry + 20] = struct.pack("<I", zlib.crc32(bytes(10)) ^ 1)
    for size in (10, 0):  # smaller than what it unpacks to
        content[entry + 24 : entry + 28] = struct.pack("<I", size)
        path.write_bytes(content)
        assert_refused(path, "is damaged")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ["a.npz", "a.pt"])
def test_archives_of_another_kind_are_refused(tmp_path, name):
    path, member = tmp_path / name, ("a/data.pkl", described()) if name == "a.pt" else ("a.npy", npy())
    for compression in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        assert_refused(npz_file(path, member, compression=compression), "compressed in an unusual way")
    assert_refused(npz_file(path, member, member), "two of its members have the same name")
    content = bytearray(npz_file(path, member).read_bytes())
    for flags in (6, content.rfind(b"PK\1\2") + 8):
        content[flags] |= 1
    path.write_bytes(content)
    assert_refused(path, "is encrypted or damaged")
    for other in (b"", b"PK\5\6", b"text" * 100):
        path.write_bytes(other)
        assert_refused(path, "is damaged or something else")


@pytest.mark.parametrize("suffix", [".npz", ".pt"])
def test_what_is_no_file_is_refused_before_it_is_read(tmp_path, suffix):
    path = tmp_path / f"directory{suffix}"
    path.mkdir()
    assert_refused(path, "is a directory")
    path = tmp_path / f"huge{suffix}"
    with open(path, "wb") as file:
        file.truncate(1 << 40)
    assert_refused(path, "has 1,099,511,627,776 bytes, expected at most")
    if os.name == "posix":
        path = tmp_path / f"pipe{suffix}"
        os.mkfifo(path)
        assert_refused(path, "is a device or pipe")
        path = tmp_path / f"zero{suffix}"
        path.symlink_to("/dev/zero")
        assert_refused(path, "is a device or pipe")
    for nowhere in ("nowhere", f"huge{suffix}/a", "a\0b"):
        with pytest.raises(FileNotFoundError, match="there is no file"):
            read_arrays(tmp_path / f"{nowhere}{suffix}")


def test_what_the_system_refuses_is_no_damage(tmp_path, monkeypatch):
    np.savez(tmp_path / "a.npz", a=np.ones(3))

    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(pathlib.Path, "read_bytes", fail)
    with pytest.raises(OSError, match="Input/output error"):
        read_arrays(tmp_path / "a.npz")
    monkeypatch.setattr(pathlib.Path, "stat", fail)
    with pytest.raises(OSError, match="Input/output error"):
        read_arrays(tmp_path / "a.npz")
