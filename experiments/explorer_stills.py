"""Stills of the explorer for the README, taken of docs/index.html in Chromium with Playwright.

    python -m experiments.explorer_stills --output=docs

`explorer.png`: a list in the fourth step of the tour. `explorer_training.png`: a step of the film of the
training, in the middle of the transition. Needs the packages of the extra `test`.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from orderscale_jax import files
from orderscale_jax.cli import app, arguments
from orderscale_jax.errors import UserError

OUTPUT = arguments.define("output", "str", None, "the directory for the pictures.", shown="DIR")
PAGE = Path(__file__).parents[1] / "docs" / "index.html"
STILLS = {  # fragments of the address
    "explorer.png": "#explorer?model=two_layer&list=26,1&positions=swap&tab=tour&tour=4",
    "explorer_training.png": "#explorer?model=two_layer&step=5600&list=26,1&tab=outputs",
}
WIDTH, HEIGHT, SCALE = 1240, 1000, 1.25
SHOWN = 890  # pixels of the explorer, from its top


def main():
    output = files.place(arguments.required(OUTPUT))
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        raise UserError("stills are taken with Chromium or Chrome, and neither is on the path")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise UserError("stills are taken with Playwright: pip install '.[test]'") from None
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for name, fragment in STILLS.items():
            page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, device_scale_factor=SCALE)
            page.goto(PAGE.as_uri() + fragment)
            box = page.locator(".orderscale-explorer").bounding_box()
            shown = box | {"height": min(box["height"], SHOWN)}
            files.write_bytes(output / name, page.screenshot(clip=shown))
        browser.close()


if __name__ == "__main__":
    app.guard(
        lambda: app.run(sys.modules[__name__], ["python -m experiments.explorer_stills", *sys.argv[1:]])
    )
