"""Makes the pictures of the documentation: the page of a plan, and its report in a terminal.

Run it by hand after a change of either, and commit what it writes into `docs/pictures`:

    python docs/pictures.py

It needs playwright and Chromium (`apt-get install chromium`), and takes about a minute: it plans a
GPT-2 of the zoo on this machine's CPU.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright
from rich.console import Console

import autockpt
from autockpt.report.terminal import tables

_PICTURES = Path(__file__).parent / "pictures"
_MAX_BYTES = 200_000
_WIDTH, _HEIGHT = 1200, 1330
_COLUMNS = 100


def main() -> None:
    """Writes all pictures."""
    example = autockpt.zoo.build("gpt2")
    plan = autockpt.plan(
        example.model,
        "40%",
        sample_args=example.args,
        sample_kwargs=example.kwargs,
        loss_fn=example.loss_fn,
        optimizer="adamw",
    )
    _PICTURES.mkdir(exist_ok=True)
    _page(plan)
    _terminal(plan)
    for file in sorted(_PICTURES.iterdir()):
        size_bytes = file.stat().st_size
        assert size_bytes <= _MAX_BYTES, f"{file} has {size_bytes} bytes; at most {_MAX_BYTES}"
        print(f"{file.name:<20}{size_bytes:>10,} bytes")


def _page(plan: autockpt.Plan) -> None:
    """The upper half of the page of a plan, light and dark."""
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("error: there is no Chromium here; run `apt-get install chromium`")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        file = Path(folder) / "plan.html"
        plan.to_html(file)
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            page = browser.new_page(
                color_scheme=scheme, viewport={"width": _WIDTH, "height": _HEIGHT}
            )
            page.goto(file.as_uri())
            page.wait_for_selector("#alive:not([hidden])")
            page.screenshot(path=_PICTURES / f"page-{scheme}.png")
        browser.close()


def _terminal(plan: autockpt.Plan) -> None:
    """The report as a terminal with colors shows it."""
    with tempfile.TemporaryFile("w") as nowhere:
        console = Console(record=True, width=_COLUMNS, file=nowhere, force_terminal=True)
        around = tables.Surroundings(timelines=plan.timeline(), command="zoo:gpt2")
        console.print(tables.render(plan, around, width=_COLUMNS))
        svg = console.export_svg(title="autockpt plan zoo:gpt2 --budget 40%")
    # The font would be loaded from the network.
    svg = re.sub(r"@font-face \{.*?\}\n", "", svg, flags=re.DOTALL)
    (_PICTURES / "terminal.svg").write_text(svg + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
