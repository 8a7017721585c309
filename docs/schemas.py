"""Writes the JSON Schemas of the command line's answers: `python docs/schemas.py`."""

from __future__ import annotations

from pathlib import Path

from autockpt.command.schemas import schema_texts

FOLDER = Path(__file__).parent / "schemas"

if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in schema_texts().items():
        (FOLDER / f"{name}.json").write_text(text, encoding="utf-8")
