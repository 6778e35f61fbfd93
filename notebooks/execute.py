"""Executes notebooks on the CPU and stores them with what came out: `python notebooks/execute.py [FILE …]`.

Without a file it takes all that lie beside it. It needs the extra `notebook`. A notebook's metadata get the
digest of the code that was executed, so that a test can tell whether the stored outputs are those of the
stored code.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from pathlib import Path

import nbclient
import nbformat

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(Path(__file__).parent.glob("*.ipynb"))
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}  # also where there is a GPU
NOT_STORED = {"application/vnd.jupyter.widget-view+json", "text/html"}  # bars of progress, the explorer
OPTIONS = {"timeout": 600, "kernel_name": "python3", "record_timing": False, "store_widget_state": False}


def code_digest(notebook) -> str:
    """SHA-256 of the code of all cells."""
    code = "\0".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    return hashlib.sha256(code.encode()).hexdigest()


def executed(path: Path):
    """The notebook with what its cells give in an empty folder."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        client = nbclient.NotebookClient(notebook, resources={"metadata": {"path": folder}}, **OPTIONS)
        client.execute(env={**os.environ, **ENVIRONMENT})
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [out for out in cell.outputs if not NOT_STORED & out.get("data", {}).keys()]
    notebook.metadata["language_info"] = {"name": "python"}  # not which version it was
    notebook.metadata["executed_code"] = code_digest(notebook)
    return notebook


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]) if sys.argv[1:] else NOTEBOOKS:
        nbformat.write(executed(path), path)
