"""Methods and cost models that other installed packages offer as entry points."""

from __future__ import annotations

from importlib.metadata import entry_points

from autockpt_solvers.near_names import meant


def plugin_names(group: str) -> tuple[str, ...]:
    """The names of a group's entry points, sorted."""
    return tuple(sorted({point.name for point in entry_points(group=group)}))


def find_plugin(group: str, name: str) -> object:
    """Load an entry point by its name.

    Args:
        group: The group, such as ``"autockpt.methods"``.
        name: The name.

    Raises:
        ValueError: There is none of this name, several packages have one, or it cannot be loaded.
    """
    points = {(p.value, p.name): p for p in entry_points(group=group, name=name)}
    if not points:
        names = plugin_names(group)
        installed = f"installed are {', '.join(map(repr, names))}" if names else "none is installed"
        raise ValueError(
            f"there is no {name!r} among the entry points of {group}; {meant(name, names)}"
            f"{installed}"
        )
    if len(points) > 1:
        values = " and ".join(value for value, _ in points)
        raise ValueError(
            f"{values} are both the entry point {name!r} of {group}; uninstall one of the packages"
        )
    (point,) = points.values()
    where = f"the entry point {name!r} of {group} ({point.value})"
    try:
        found = point.load()
    except Exception as error:
        raise ValueError(
            f"{where} cannot be loaded: {type(error).__name__}: {error}; mend or uninstall its "
            "package"
        ) from error
    if not callable(found):
        raise ValueError(  # noqa: TRY004 - of a package, not of the caller
            f"{where} is a {type(found).__name__}; it must be a function"
        )
    return found
