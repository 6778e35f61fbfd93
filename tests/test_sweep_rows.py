"""The results of a sweep on disk: what was written is what is read, and every damage is told."""

import csv
import itertools
from pathlib import Path

import pytest

from orderscale_jax.errors import UserError
from orderscale_jax.training.sweep_rows import COLUMNS, ResultsFile, read_results, run_digest, write_results

SHIPPED = Path(__file__).parents[1] / "experiments" / "results" / "ceiling.csv"


@pytest.fixture
def path(tmp_path):
    """A file with two rows, of which one has a transition."""
    rows = read_results(SHIPPED)
    write_results(
        tmp_path / "results.csv", [rows[0], next(row for row in rows if not row["transition_step"])]
    )
    return tmp_path / "results.csv"


def refused(path, content):
    """The sentence with which this content is refused."""
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_results(path)
    text = str(error.value)
    assert text.startswith(f"{path}, line") and "\n" not in text
    assert "put back a copy of the file" in text
    return text.removeprefix(f"{path}, ")


def test_a_file_is_read_as_it_was_written(path):
    rows, content = read_results(path), path.read_bytes()
    assert [row["run"] for row in rows] == [run_digest(row) for row in rows]
    assert {type(value) for row in rows for value in row.values()} == {
        str,
        int,
        float,
        bool,
        list,
        type(None),
    }
    write_results(path, rows)
    assert path.read_bytes() == content
    path.write_bytes(content.split(b"\n")[0] + b"\r")  # killed while writing the header
    assert read_results(path) == []
    assert "a byte order mark, as after a spreadsheet" in refused(path, b"\xef\xbb\xbf" + content)
    path.write_bytes(content.replace(b"\n", b"\r\n"))  # as spreadsheets do
    assert read_results(path) == rows
    with pytest.raises(FileNotFoundError):
        read_results(path.with_name("nothing.csv"))


def test_every_bit_counts(path):
    """That of the end of the last line too: a kill leaves less than a line, and not more."""
    content = path.read_bytes()
    lines = list(itertools.accumulate(map(len, content.splitlines(keepends=True))))
    bits = [*range(0, 8 * lines[1], 29), *range(8 * lines[1], 8 * lines[2])]
    for i, bit in (divmod(bit, 8) for bit in bits):
        flipped = bytes([content[i] ^ 1 << bit])
        text = refused(path, content[:i] + flipped + content[i + 1 :])
        number = 1 + sum(end <= i for end in lines)
        assert text.startswith((f"line {number}:", f"line {number} is")) or (flipped == b"\n")


def test_a_kill_while_writing_costs_no_more_than_a_row(path):
    rows, content = read_results(path), path.read_bytes()
    for length in (*range(0, len(content), 17), *range(len(content) - 40, len(content))):
        path.write_bytes(content[:length])
        assert read_results(path) == rows[: max(0, content[:length].count(b"\n") - 1)]


def test_what_a_kill_left_goes_when_rows_are_added(path):
    rows, content = read_results(path), path.read_bytes()
    for length in (0, 5, len(content) - 200, len(content) - 1):
        path.write_bytes(content[:length])
        there = read_results(path)
        file = ResultsFile(path)
        for row in rows[len(there) :]:
            file.append(row)
        file.close()
        assert path.read_bytes() == content


@pytest.mark.parametrize(
    "damage",
    [
        lambda header, a, b: (
            header.replace(b"accuracy,sequence_accuracy", b"sequence_accuracy,accuracy") + a + b
        ),
        lambda header, a, b: a + b,
        lambda header, a, b: header + a.replace(b",constant,", b',"constant,') + b,
        lambda header, a, b: header + a.replace(b",constant,", b",const\0ant,") + b,
        lambda header, a, b: header + a.replace(b",constant,", b",const\rant,") + b,
        lambda header, a, b: header + a.replace(b",constant,", b",const\xffant,") + b,
        lambda header, a, b: header + a.replace(b",constant,", b"," + 200_000 * b"x" + b",") + b,
        lambda header, a, b: header + a.replace(b",constant,", b",constant,,") + b,
        lambda header, a, b: header + a[:-30] + b,
        lambda header, a, b: b"\x93PNG",
        lambda header, a, b: b"\x93PNG\n",
        lambda header, a, b: b"run\nrun",
    ],
)
def test_other_damage(path, damage):
    refused(path, damage(*path.read_bytes().splitlines(keepends=True)))


def test_a_row_whose_name_is_that_of_another_run(path):
    rows = read_results(path)
    write_results(path, [{**rows[0], "learning_rate": 0.5}, rows[1]])  # with its digest
    assert refused(path, path.read_bytes()).startswith("line 2 is not as it was written")


def test_a_run_that_is_there_twice(path):
    rows = read_results(path)
    write_results(path, [*rows, rows[0]])
    assert read_results(path) == rows
    write_results(path, [*rows, {**rows[0], "accuracy": 0.5}])
    with pytest.raises(UserError, match="lines 2 and 4 say different things of one run"):
        read_results(path)


def test_the_columns_are_those_of_the_header(path):
    with open(path, newline="") as file:
        assert tuple(next(csv.reader(file))) == (*COLUMNS, "digest")
