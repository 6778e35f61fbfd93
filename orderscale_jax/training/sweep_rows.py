"""The results of a sweep: one CSV with a row per run, which tells what damage was done to it.

A row's last entry is a digest of its others, and its first one, `run`, names the run by its configuration.
"""

from __future__ import annotations

import codecs
import csv
import dataclasses
import hashlib
import io
import itertools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from orderscale_jax import files
from orderscale_jax.config import TrainConfig
from orderscale_jax.errors import UserError
from orderscale_jax.model import ModelConfig
from orderscale_jax.task import TaskConfig

CONFIG_COLUMNS = tuple(
    dict.fromkeys(f.name for c in (TaskConfig, ModelConfig, TrainConfig) for f in dataclasses.fields(c))
)
OUTCOMES = (
    "accuracy",
    "sequence_accuracy",
    "position_accuracy",
    "train_accuracy",
    "train_sequence_accuracy",
    "transition_step",
    "diverged_step",
    "best_step",
    "steps",
)
RESULT_COLUMNS = (*OUTCOMES, "seconds", "parameters", "weights_sha256", "device")
COLUMNS = ("run", "seed", *CONFIG_COLUMNS, *RESULT_COLUMNS)
DIGEST = "digest"  # the last column, which the reader checks and does not return
DIGITS = 16  # of a digest, and of a run's name
TEXT_COLUMNS = (
    "run",
    "duplicates",
    "split",
    "frozen_heads",
    "batches",
    "overrides",
    "scores",
    "schedule",
    "weights_sha256",
    "device",
)


def run_digest(columns: Mapping[str, Any]) -> str:
    """Names a run by everything that decides its outcome: its seed and the columns of its configuration."""
    deciding = {name: columns[name] for name in ("seed", *CONFIG_COLUMNS)}
    return _digest(json.dumps(deciding, sort_keys=True))


def read_results(path: str | os.PathLike) -> list[dict[str, Any]]:
    """The rows of a results CSV, with numbers, truth values, None and lists where they are meant.

    A last line without its end (the sweep was killed while writing) is left out, and so is a line that is
    there twice.

    Raises:
      FileNotFoundError: there is no such file.
      UserError: it is not a results CSV, or a line is not as it was written; the text says which.
    """
    path = files.place(path)
    header, *lines = path.read_bytes().split(b"\n")
    if not lines and _header().startswith(header.removesuffix(b"\r")):  # killed while writing the header
        return []
    if not lines or header.removesuffix(b"\r") != _header():
        raise _not_results(path, header)
    torn = lines.pop()
    rows: dict[str, dict[str, Any]] = {}
    first: dict[str, int] = {}
    for number, line in enumerate(lines, start=2):
        if not line.strip():
            continue
        row = _row(line)
        if row is None:
            raise _damaged(path, number)
        if rows.setdefault(row["run"], row) != row:
            raise UserError(
                f"{path}, lines {first[row['run']]} and {number} say different things of one run: delete one "
                "of them, or both and the sweep trains it again"
            )
        first.setdefault(row["run"], number)
    if _is_longer_than_a_row(torn):
        raise _damaged(path, len(lines) + 2)
    return list(rows.values())


def _header() -> bytes:
    return ",".join((*COLUMNS, DIGEST)).encode()


def _row(line: bytes) -> dict[str, Any] | None:
    """What a line says, None if it is not as it was written."""
    try:
        (*entries, digest) = next(csv.reader([line.decode()], strict=True))
        if len(entries) != len(COLUMNS) or digest != _row_digest(entries):
            return None
        row = {name: _parse(name, entry) for name, entry in zip(COLUMNS, entries, strict=True)}
    except (ValueError, csv.Error):
        return None
    return row if row["run"] == run_digest(row) else None


def _parse(name: str, entry: str) -> Any:
    if name in TEXT_COLUMNS:
        return entry
    if entry in ("", "True", "False"):
        return {"": None, "True": True, "False": False}[entry]
    if name == "position_accuracy":
        return [float(part) for part in entry.split()]
    return float(entry) if set(entry) & set(".en") else int(entry)


def _is_longer_than_a_row(torn: bytes) -> bool:
    """Whether a last line without its end is more than what a kill leaves: its end is what was damaged."""
    try:
        entries = next(csv.reader([torn.decode(errors="replace")]), [])
    except csv.Error:
        return False
    return len(entries) > len(COLUMNS) and len(",".join(entries[len(COLUMNS) :])) > DIGITS


def _not_results(path: files.Place, header: bytes) -> UserError:
    """The error of a file whose first line is `header`."""
    found = header.decode(errors="replace").removesuffix("\r").split(",")
    pairs = itertools.zip_longest(found, (*COLUMNS, DIGEST), fillvalue="nothing")
    hint = ""
    if header.startswith(codecs.BOM_UTF8):
        hint = " (it begins with a byte order mark, as after a spreadsheet has saved it)"
    number, (there, here) = next((i, pair) for i, pair in enumerate(pairs, start=1) if pair[0] != pair[1])
    return UserError(
        f"{path}, line 1: column {number} is {there[:40]!r} where the results of a sweep have "
        f"{here!r}{hint}: put back a copy of the file, or give another directory"
    )


def _damaged(path: files.Place, number: int) -> UserError:
    return UserError(
        f"{path}, line {number} is not as it was written: put back a copy of the file, or delete the line "
        "and the sweep trains its run again"
    )


class ResultsFile:
    """A CSV to which whole rows are added; what a kill left of a last line goes when it is opened."""

    def __init__(self, path: str | os.PathLike):
        """Makes the file with its header, or checks the one that is there.

        Raises:
          UserError: there is another file, or it is damaged.
          OSError: it cannot be written.
        """
        self._path = files.place(path)
        whole = b""
        if self._path.exists():
            read_results(self._path)  # for its checks
            content = self._path.read_bytes()
            whole = content[: content.rfind(b"\n") + 1]
        self._file = files.Growing(self._path, whole.decode())
        if not whole:
            self._file.add(_lines([(*COLUMNS, DIGEST)]))
            self._file.keep()

    @property
    def name(self) -> str:
        return self._path.name

    def append(self, row: dict[str, Any]):
        """Adds a row; it outlasts this process, in an object store from the next `keep` on.

        Raises:
          OSError: it cannot be written; what is there of it goes when the file is opened again.
        """
        self._file.add(_lines([_entries(row)]))

    def keep(self):
        """Returns when the rows are on disk, or in the store.

        Raises:
          OSError: they cannot be written.
        """
        self._file.keep()

    def close(self):
        self._file.close()


def write_results(path: str | os.PathLike, rows: Iterable[dict[str, Any]]):
    """Writes rows so that the file is either whole or as it was."""
    files.write_text(files.place(path), _lines([(*COLUMNS, DIGEST), *map(_entries, rows)]))


def _entries(row: dict[str, Any]) -> list[str]:
    """A line's entries as they are written, the digest included."""
    if row["position_accuracy"] is not None:
        row = {**row, "position_accuracy": " ".join(map(str, row["position_accuracy"]))}
    entries = ["" if row[name] is None else str(row[name]) for name in COLUMNS]
    return [*entries, _row_digest(entries)]


def _row_digest(entries: Sequence[str]) -> str:
    """Of the entries of COLUMNS with their names."""
    return _digest(json.dumps(list(zip(COLUMNS, entries, strict=True))))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def _lines(rows: Iterable[Sequence[str]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()
