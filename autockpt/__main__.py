"""`python -m autockpt`."""

from __future__ import annotations

from autockpt.command.cli import main

if __name__ == "__main__":
    main()
