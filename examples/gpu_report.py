"""What `gpu_check.py` has measured, as Markdown."""

from __future__ import annotations

from typing import Any

from autockpt.budget import format_bytes


def markdown(results: dict[str, Any]) -> str:
    said = results["machine"]
    versions = f"torch {said['torch']}, Python {said['python']}, autockpt {said['autockpt']}"
    lines = [f"# {said['device']}, {said['date']}", "", f"{versions}; {said['size']} models.", ""]
    if "context_bytes" in said:
        context = format_bytes(said["context_bytes"])
        lines += [f"Taken before the first tensor (CUDA context and others): {context}.", ""]
    if "seed" in results:
        lines += [*seed_lines(results["seed"]), ""]
    if results["models"]:
        header = "model|f|budget|eager peak|peak|reserved|predicted|time|recompute|bit-equal|limit"
        lines += [f"| {header.replace('|', ' | ')} |", f"|{'---|' * 11}"]
    for model in results["models"]:
        lines += [markdown_row(model, row) for row in model.get("budgets", [model])]
    for model in results["models"]:
        for row in model.get("budgets", ()):
            lines += beside_lines(model["model"], row)
    if "auto" in results:
        lines += ["", f'`budget="auto"`: {auto_text(results["auto"])}.']
    return "\n".join(lines) + "\n"


def seed_lines(seed: dict[str, Any]) -> list[str]:
    """The first case as a table: each way to train it."""
    shape = seed["shape"]
    header = "way|peak|reserved|predicted|forward and backward|predicted|sequences/s"
    lines = [
        f"BERT: {shape['layers']} layers, {shape['width']} wide, batch {shape['batch']}, sequence "
        f"{shape['length']}, SGD; autockpt at {format_bytes(seed['budget_bytes'])}.",
        "",
        f"| {header.replace('|', ' | ')} |",
        f"|{'---|' * 7}",
    ]
    for name, way in seed["ways"].items():
        if "skipped" in way or "error" in way:
            lines.append(f"| {name} | {way.get('skipped') or way['error']} |{' |' * 5}")
            continue
        cells = [
            way_name(name, way, seed["budget_bytes"]),
            amount(way, "peak_bytes"),
            amount(way, "max_memory_reserved_bytes"),
            amount(way, "predicted_peak_bytes"),
            duration(way, "forward_backward_ms"),
            duration(way, "predicted_ms"),
            f"{way['sequences_per_s']:.1f}" if "sequences_per_s" in way else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def way_name(name: str, way: dict[str, Any], budget_bytes: int) -> str:
    if "device" in way:
        return f"{name} for {way['device']}"
    if way.get("budget_bytes", budget_bytes) != budget_bytes:
        return f"{name}, at {format_bytes(way['budget_bytes'])}: less is not possible"
    return name


def amount(values: dict[str, Any], name: str) -> str:
    return format_bytes(values[name]) if name in values else ""


def duration(values: dict[str, Any], name: str) -> str:
    return f"{values[name]:.1f} ms" if name in values else ""


def beside_lines(name: str, row: dict[str, Any]) -> list[str]:
    """What was estimated for a row, and what the guard did."""
    lines = []
    if "estimated" in row:
        found = row["estimated"]
        said = found.get("error") or (
            f"estimated for {found['device']}: {format_bytes(found['predicted_peak_bytes'])}, "
            f"eager {format_bytes(found['baseline_peak_bytes'])}, forward and backward "
            f"{found['step_ms']:.1f} ms; predicted from measured operators "
            f"{row['predicted_ms']:.1f} ms"
        )
        lines += ["", f"{name} at {format_bytes(row['budget_bytes'])}, {said.rstrip('.')}."]
    if "guard" in row:
        guard = row["guard"]
        said = guard.get("skipped") or f"{guard['outcome']}"
        lines += ["", f"{name}, the guard under a cap: {said}."]
        lines += [f"- {told}" for told in guard.get("warnings", ())]
        lines += [f"- step {at + 1}: {each}" for at, each in enumerate(guard.get("outcomes", ()))]
    return lines


def auto_text(found: dict[str, Any]) -> str:
    said = found.get("skipped") or found.get("error") or found.get("error_on_cpu")
    return said or (
        f"{format_bytes(found['budget_bytes'])} where {format_bytes(found['wanted_bytes'])} were "
        f"left; measured {format_bytes(found['measured_peak_bytes'])}, "
        f"{format_bytes(found['max_memory_reserved_bytes'])} reserved; eager needs "
        f"{format_bytes(found['eager_peak_bytes'])}"
    )


def markdown_row(model: dict[str, Any], row: dict[str, Any]) -> str:
    cells = [model["model"], f"{row['share']:g}" if "share" in row else ""]
    if "skipped" in row or "error" in row:
        return f"| {' | '.join([*cells, row.get('skipped') or row['error'], *[''] * 8])} |"
    equal = "yes" if row["bit_equal"] else f"no ({row['max_difference']:.1e})"
    if not model["eager_repeats_itself"]:
        equal += "; eager does not repeat itself"
    cells += [
        format_bytes(row["budget_bytes"]),
        format_bytes(model["eager_peak_bytes"]),
        format_bytes(row["peak_bytes"]) + ("" if row["fits"] else " (over)"),
        amount(row.get("limit", {}).get("optimized", {}), "max_memory_reserved_bytes"),
        format_bytes(row["predicted_peak_bytes"]),
        f"x{row['time_ratio']:.3f} of {row['eager_ms']:.1f} ms",
        f"+{row['predicted_overhead']:.1%} (bound {row['lower_bound']:.1%})",
        equal,
        limit_cell(row),
    ]
    return f"| {' | '.join(cells)} |"


def limit_cell(row: dict[str, Any]) -> str:
    if "limit" not in row:
        return ""
    limit = row["limit"]
    cell = f"at x{limit['factor']:g} of the budget: optimized {limit['optimized']['outcome']}"
    return cell + (f", eager {limit['eager']['outcome']}" if "eager" in limit else "")
