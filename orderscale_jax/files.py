"""Files that are either whole or as they were, whoever else writes them at the same time."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def write_bytes(path: Path, content: bytes) -> Path:
    """Writes a file beside its place and moves it there when it is on the disk; returns `path`."""
    partial = beside(path)
    try:
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def write_text(path: Path, text: str) -> Path:
    """`write_bytes` of text in UTF-8."""
    return write_bytes(path, text.encode())


def write_json(path: Path, content: Any) -> Path:
    """`write_bytes` of JSON."""
    return write_text(path, json.dumps(content, indent=1) + "\n")


def write_csv(path: str | os.PathLike, columns: Iterable[str], rows: Iterable[Mapping[str, Any]]):
    """Writes a header and a line per row so that the file is either whole or as it was."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(Path(path), text.getvalue())


def plain(value: Any) -> Any:
    """Arrays and NumPy numbers, in dictionaries and lists too, as JSON can hold them; NaN becomes None."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def beside(path: Path) -> Path:
    """A place in the same folder that no other process on any machine uses."""
    return path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}")
