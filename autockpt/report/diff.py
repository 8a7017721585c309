"""Two plans side by side, as text and as a page."""

from __future__ import annotations

from autockpt.report.plan import Plan
from autockpt.report.terminal.comparison import compare
from autockpt.report.timeline.value import StepTimelines


def diff_text(first: Plan, second: Plan, names: tuple[str, str] = ("A", "B")) -> str:
    """Returns what differs between two plans as text: figures, then modules.

    Args:
        first: A plan.
        second: Another, for the same model or for another one.
        names: What to call them.
    """
    return str(compare(first, second, names))


def diff_html(first: Plan, second: Plan, names: tuple[str, str] = ("A", "B")) -> str:
    """Returns two plans as one page, over the same axes; it loads and sends nothing.

    Args:
        first: A plan.
        second: Another, for the same model or for another one.
        names: What to call them.
    """
    from autockpt.report.page.rendering import diff_html as page_of

    def named(name: str, plan: Plan) -> tuple[str, Plan, StepTimelines | None]:
        return name, plan, None if plan.schedule is None else plan.timeline()

    return page_of(named(names[0], first), named(names[1], second))
