"""Opens the explorer: a page on which you change what a model does.

    orderscale explore [CHECKPOINT]
    orderscale explore --checkpoint=two_layer --output=explorer.html

Without a checkpoint it shows the models that are shipped, and a training run as
a film. The page is one file that needs no network. It is left where --output
says, and opened in your browser.
"""

from __future__ import annotations

import tempfile
import webbrowser
from pathlib import Path

from orderscale_jax import explorer, files
from orderscale_jax.checkpoint import pretrained_names
from orderscale_jax.cli import arguments, machine, studied
from orderscale_jax.errors import UserError

CHECKPOINT = ARGUMENT = studied.define_checkpoint()
OUTPUT = arguments.define(
    "output", "str", None, "the file for the page.", shown="FILE (by default in a new temporary directory)"
)
OPEN = arguments.define("open", "bool", True, "open the page in a browser.")


def main():
    path = None if OUTPUT.value is None else _checked(arguments.required(OUTPUT))
    machine.use_compilation_cache()
    page = explorer.shipped_page() if CHECKPOINT.value is None else _page(arguments.required(CHECKPOINT))
    if path is None:
        path = files.place(tempfile.mkdtemp(prefix="orderscale_")) / "explorer.html"
    files.make_directory(files.absolute(path).parent)
    files.write_text(path, page)
    print(files.absolute(path))
    if OPEN.value and not files.is_remote(path) and not webbrowser.open(Path(files.absolute(path)).as_uri()):
        print("no browser could be opened: open that file in one")


def _checked(output: str) -> files.Place:
    """Where the page is wanted; UserError if no page can lie there."""
    path = files.place(output)
    if path.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--output={output} must name an HTML file, such as explorer.html")
    if path.is_dir():
        raise UserError(f"--output={output} is a directory: give the name of a file in it")
    return path


def _page(checkpoint: str) -> str:
    """The page of one model."""
    model, config, name = studied.load(checkpoint)
    is_shipped = checkpoint in pretrained_names() and not files.place(checkpoint).exists()
    place = None if is_shipped else str(files.absolute(files.place(checkpoint)))
    return explorer.single_page(explorer.page_model(model, config, name, place))
