"""Whose a work directory is: what is in it, what may be done there, and what goes at the end."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import ml_collections

from orderscale_jax import checkpoint, files, storage
from orderscale_jax.errors import UserError
from orderscale_jax.training.shares import Share

CONFIG, SUMMARY, LOG, PART = "config.json", "summary.json", "metrics.jsonl", "part.json"
FOLDERS = {  # and how the names of what is in them begin
    "checkpoint": "",
    "members": r"\.?seed_\d+",
    "states": r"\.?step_\d+",
    "parts": r"\d+_of_\d+",
}
TEMPORARY = "parts", "states"
UNDECISIVE = ("save_seconds",)  # options that change nothing of what comes out
MOST_DIFFERENCES = 6  # that a sentence names


def place_of(workdir: files.Place, share: Share) -> files.Place:
    """Where a share keeps its states and its log."""
    return workdir if share.count == 1 else workdir / "parts" / str(share)


def _check_shares(workdir: files.Place, share: Share):
    """UserError if another number of shares has begun here."""
    parts = workdir / "parts"
    entries = parts.iterdir() if parts.is_dir() else ()
    begun = {found[1] for entry in entries if (found := re.fullmatch(r"\d+_of_(\d+)", entry.name))}
    begun |= {"1"} if (workdir / "states").exists() else set()
    if others := begun - {str(share.count)}:
        raise UserError(
            f"{workdir} was begun with {others.pop()} process(es), now there are {share.count}: start as "
            f"many as before, or delete {parts if parts.is_dir() else workdir / 'states'} to begin anew"
        )


def describe(config: ml_collections.ConfigDict) -> dict[str, Any]:
    return json.loads(config.to_json_best_effort())


def finished(workdir: files.Place, config: ml_collections.ConfigDict) -> dict[str, Any] | None:
    """The summary of these runs, if they have ended in `workdir`; where only the copy of the best of several
    is missing or damaged, it is made again.

    Raises:
      UserError: other runs are there, or what these have left is damaged.
    """
    if not (workdir / CONFIG).exists() or not (workdir / SUMMARY).exists():
        return None
    refuse_other(files.read_json(workdir / CONFIG), describe(config), workdir)
    summary = files.read_note(workdir / SUMMARY)
    for member in summary.get("runs", []):  # of which loading tells damage
        if not (path := weights_of(workdir, config, member["seed"])).exists():
            raise _lost(path, "is missing")
    path, best = workdir / "checkpoint", weights_of(workdir, config, summary["seed"])
    try:
        _check_weights(path, summary["weights_sha256"])
    except UserError:
        if best == path:
            raise
        _check_weights(best, summary["weights_sha256"])
        files.remove_directory(path)
        storage.copy(best, path)
    return {**summary, "checkpoint": str(files.absolute(workdir / "checkpoint"))}


def _check_weights(path: files.Place, digest: str):
    """UserError unless at `path` are the weights with which a run ended."""
    try:
        found = storage.weight_digest(checkpoint.named_arrays(checkpoint.load_checkpoint(path)[0]))
    except FileNotFoundError:
        wrong = "is missing"
    except checkpoint.DamagedError:
        wrong = "is damaged"
    else:
        wrong = "holds other weights than those it ended with" if found != digest else None
    if wrong:
        raise _lost(path, wrong)


def _lost(path: files.Place, wrong: str) -> UserError:
    return UserError(
        f"the training has ended, but its checkpoint {path} {wrong}: put back a copy of it, or train anew "
        "with --overwrite"
    )


def refuse_others(workdir: files.Place, config: ml_collections.ConfigDict, share: Share, mine: range):
    """Raises what `train` raises if in `workdir` is what these runs would not go on with, or harm."""
    if any(workdir.glob("results*.csv")):
        raise UserError(f"{workdir} holds a sweep: give another directory")
    for path in (workdir / "checkpoint", *(weights_of(workdir, config, config.seed + i) for i in mine)):
        storage.refuse_foreign(path)
    _check_shares(workdir, share)
    if (workdir / CONFIG).exists():
        refuse_other(files.read_json(workdir / CONFIG), describe(config), workdir)
    elif not (place_of(workdir, share) / "states").exists():
        for name in (SUMMARY, LOG, "checkpoint", "members"):
            if (path := workdir / name).exists() and not (path.is_dir() and not any(path.iterdir())):
                raise UserError(
                    f"{workdir} holds {name}, but no {CONFIG} that says of which training: give another "
                    "directory, or begin anew with --overwrite"
                )


def refuse_other(there: Mapping[str, Any], here: Mapping[str, Any], place: files.Place):
    """UserError if what stands in `place` is of another configuration than that which is given here."""
    found = [text for name, text in _differences(there, here) if name not in UNDECISIVE]
    if found:
        more = f"; and {len(found) - MOST_DIFFERENCES} more" if len(found) > MOST_DIFFERENCES else ""
        raise UserError(
            f"{place} holds a run of another configuration ({'; '.join(found[:MOST_DIFFERENCES])}{more}): "
            "give the same configuration again or another directory, or begin anew with --overwrite"
        )


def _differences(there: Any, here: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """The options in which two configurations differ, each with a text that says so."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in {**there, **here}:
            yield from _differences(there.get(key), here.get(key), f"{name}.{key}" if name else key)
    elif there != here:
        yield name, f"{name} is {there!r} there and {here!r} here"


def claim(workdir: files.Place, said: dict[str, Any]):
    """Writes down whose `workdir` is, if it is nobody's yet."""
    if not (workdir / CONFIG).exists():
        files.write_json(workdir / CONFIG, said)
    refuse_other(files.read_json(workdir / CONFIG), said, workdir)  # a share may have been faster


def clear(workdir: files.Place):
    """Removes what training has left in `workdir`; what else is there stays.

    Raises:
      FileExistsError: something there has one of our names and is not ours.
      UserError: `config.json` is damaged.
    """
    storage.refuse_foreign(workdir / "checkpoint")
    note = workdir / CONFIG
    foreign = [note] if note.exists() and not {"task", "model"} <= files.read_json(note).keys() else []
    for name, pattern in FOLDERS.items():
        entries = (workdir / name).iterdir() if (workdir / name).is_dir() else ()
        foreign += [entry for entry in entries if not re.match(pattern, entry.name)]
    if foreign:
        raise FileExistsError(f"{foreign[0]} is not of a training: nothing in {workdir} was removed")
    for name in (SUMMARY, CONFIG, PART, LOG):
        (workdir / name).unlink(missing_ok=True)
    for name in FOLDERS:
        files.remove_directory(workdir / name)


def weights_of(workdir: files.Place, config, seed: int) -> files.Place:
    """Where the weights of one run are."""
    return workdir / "members" / f"seed_{seed}" if config.runs > 1 else workdir / "checkpoint"


def clean(workdir: files.Place):
    """Removes what nothing needs once the summary is there."""
    for done in TEMPORARY:
        files.remove_directory(workdir / done)
    (workdir / PART).unlink(missing_ok=True)


def is_to_be_cleaned(workdir: files.Place) -> bool:
    """Whether something is there that goes at the end."""
    return any((workdir / name).exists() for name in (*TEMPORARY, PART))
