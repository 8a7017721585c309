"""Exit codes, the same for every command."""

from __future__ import annotations

FITS = 0  # or, for commands that ask for no plan, success
BUG = 1  # in autockpt
USAGE = 2  # an argument, a file, or code of yours that fails
DOES_NOT_FIT = 3
NOT_CAPTURED = 4
INTERRUPTED = 130  # as shells report it: 128 and the number of SIGINT
CLOSED_PIPE = 141  # the same for SIGPIPE: nobody reads the answer any more
