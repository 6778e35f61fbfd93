"""Files of arrays, `.npz` and PyTorch's `.pt`: read as data, and only where nothing is damaged.

Both are zip archives. Every member is compared with its checksum, and every size with what is really
there before memory is taken for it. PyTorch is not needed, and nothing in a file is run.
"""

from __future__ import annotations

import contextlib
import io
import math
import stat
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from orderscale_jax import torch_pickle
from orderscale_jax.errors import UserError

LARGEST = 1 << 30  # bytes of a file; 12 layers with a d_model of 1,024 take 0.6e9
UNPACKED, TIMES = 8 << 20, 32  # a file may unpack to this many bytes, and to so many times its own
TORCH_BEFORE_1_6 = bytes.fromhex("6cfc9c46f9206aa85019")  # the number with which its files begin
NPY_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` file, as `numpy.savez` takes them.

    Raises:
      UserError: it is something else, is damaged, or holds Python objects.
      OSError: the system refuses.
    """
    content = _content(path)
    with _refusing(f"{path} is not an .npz file of plain arrays"):
        return {name.removesuffix(".npy"): _npy(name, data) for name, data in _members(content).items()}


def read_torch(path: Path, *, nested: bool = False) -> dict[str, np.ndarray]:
    """The tensors of a PyTorch `state_dict`, floating-point ones as float32.

    With `nested` a dictionary that holds a `state_dict` and more will do, see `torch_pickle.tensors`.

    Raises:
      UserError: it is something else, is damaged, or holds a tensor that is no plain array of numbers.
      OSError: the system refuses.
    """
    content = _content(path)
    with _refusing(f"{path} is not a PyTorch state_dict of plain tensors"):
        if TORCH_BEFORE_1_6 in content[:64]:
            raise UserError(
                "it has the format of PyTorch before 1.6, in which damage cannot be noticed; "
                "save it again with torch.save(torch.load(FILE), FILE)"
            )
        return torch_pickle.tensors(_members(content), _most_bytes(content), nested=nested)


def _content(path: Path) -> bytes:
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):  # the last of a name that no file can have
        raise FileNotFoundError(f"there is no file {path}") from None
    if not stat.S_ISREG(status.st_mode):
        kind = "directory" if stat.S_ISDIR(status.st_mode) else "device or pipe"
        raise UserError(f"{path} is a {kind}: give a .pt or .npz file")
    if status.st_size > LARGEST:
        raise UserError(
            f"{path} has {status.st_size:,} bytes, expected at most {LARGEST:,}: give a list transformer"
        )
    return path.read_bytes()


@contextlib.contextmanager
def _refusing(refusal: str) -> Iterator[None]:
    """Whatever is wrong with a file's content becomes one sentence; a UserError inside is its reason."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of NumPy, about odd headers
            yield
    except UserError as error:
        raise UserError(f"{refusal}: {error}") from error
    except Exception as error:  # zipfile, zlib, pickletools and NumPy raise a dozen types
        raise UserError(f"{refusal}: it is damaged or something else, copy or save it again") from error


def _most_bytes(content: bytes) -> int:
    return max(UNPACKED, TIMES * len(content))


def _members(content: bytes) -> dict[str, bytes]:
    """The members of a zip archive by name, each of the size and with the checksum that are said of it."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = archive.infolist()
        (n_members,) = struct.unpack_from("<H", content, content.rfind(b"PK\5\6") + 10)
        names = {member.filename for member in members}
        if n_members != len(members) or not all(name.isprintable() and len(name) < 300 for name in names):
            raise zipfile.BadZipFile  # one flipped bit can hide members
        if len(names) < len(members):
            raise UserError("two of its members have the same name, copy or save it again")
        if any(member.flag_bits & 1 for member in members):
            raise UserError("it is encrypted or damaged, save it without a password")
        if not {member.compress_type for member in members} <= {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
            raise UserError("it is damaged or compressed in an unusual way, save it with NumPy or PyTorch")
        if (total := sum(member.file_size for member in members)) > _most_bytes(content):
            raise UserError(
                f"its {len(content):,} bytes claim to hold {total:,}, copy it or save it uncompressed"
            )
        return {member.filename: _unpacked(archive, member) for member in members}


def _unpacked(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    with archive.open(member) as file:
        data = file.read(member.file_size)  # no more, whatever the compressed bytes would give
    if len(data) != member.file_size or zlib.crc32(data) != member.CRC:
        raise zipfile.BadZipFile  # zipfile does not compare what is empty
    return data


def _npy(name: str, content: bytes) -> np.ndarray:
    """The array of an .npy file, whose size is known before memory is taken for it."""
    if not name.endswith(".npy"):
        raise UserError(f"its member {name} is no array, which would end in .npy, save arrays alone")
    file = io.BytesIO(content)
    shape, _, dtype = NPY_HEADERS[np.lib.format.read_magic(file)](file)
    if dtype.hasobject:
        raise UserError(f"its array {name.removesuffix('.npy')} holds Python objects, save numbers alone")
    if min(shape, default=0) < 0:
        raise ValueError
    n_bytes, stored = math.prod(shape) * dtype.itemsize, len(content) - file.tell()
    if n_bytes != stored:
        raise UserError(
            f"its array {name.removesuffix('.npy')} needs {n_bytes:,} bytes and has {stored:,}, save it again"
        )
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)
