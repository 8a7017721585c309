"""Texts of files, shown so that they can do nothing: neither escapes nor hidden letters."""

from __future__ import annotations


def inert(text: str) -> str:
    r"""Returns a text on one line in which what is not printable is written out, as `\x1b`."""
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii")
        for letter in text
    )
