"""Results of the stages as text and as a figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def describe(rows: list[dict[str, Any]]) -> str:
    """Format the rows as a table."""
    first, last = rows[0], rows[-1]
    here, (height, width) = first["machine"], first["size"]
    lines = [
        f"{first['images']} images, batches of {first['batch_size']} at {height}x{width}, {first['threads']} threads, "
        f"device {first['device']}; warm page cache but where it says cold; median of {first['repeats']} passes",
        f"{here['cpu']}, {here['cores']} cores, {here['memory_gib']} GiB",
        f"{'stage':<22}{'img/s':>9}{'(low to high)':>20}{'MB/s':>9}{'CPU %':>7}{'MiB':>7}{'p50 ms':>9}{'p99 ms':>9}",
    ]
    for row in rows:
        spread = f"({row['low']:.0f} to {row['high']:.0f})"
        lines.append(
            f"{row['name']:<22}{row['value']:>9.0f}{spread:>20}{row['mb_per_s']:>9.0f}{row['cpu_percent']:>7}"
            f"{row['peak_mib']:>7}{row['p50_ms']:>9.2f}{row['p99_ms']:>9.2f}"
        )
    if last["device"] == "cpu":
        lines.append(
            "MB/s: what the stage hands on. MiB: the process's peak. p50, p99: from batch to batch. No copy on cpu."
        )
    return "\n".join(lines)


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Plot the cost per image of each stage, and the throughput of the loader by threads."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    stages = [row for row in rows if not row["name"].endswith(" threads")][::-1]
    costs = [1000 / row["value"] for row in stages]
    spread = [[c - 1000 / row["high"] for c, row in zip(costs, stages, strict=True)]]
    spread.append([1000 / row["low"] - c for c, row in zip(costs, stages, strict=True)])
    colours = ["#4c72b0" if row["name"].startswith("all") else "#8c8c8c" for row in stages]
    bars = left.barh([row["name"] for row in stages], costs, xerr=spread, color=colours)
    left.bar_label(bars, [f"{row['value']:,.0f} img/s" for row in stages], padding=6, fontsize=8)
    longest = max(cost + more for cost, more in zip(costs, spread[1], strict=True))
    left.set(xlabel=f"ms per image on {rows[0]['threads']} threads", xlim=(0, 1.35 * longest), title="stages")
    named = max((row["name"] for row in stages if row["name"].startswith("all")), key=len)
    sweep = [row for row in rows if row["name"] == named or row["name"].endswith(" threads")]
    sweep.sort(key=lambda row: row["threads"])
    values = [row["value"] for row in sweep]
    low = [v - row["low"] for v, row in zip(values, sweep, strict=True)]
    high = [row["high"] - v for v, row in zip(values, sweep, strict=True)]
    right.errorbar(range(len(sweep)), values, yerr=[low, high], marker="o", capsize=3, color="#4c72b0")
    right.set_xticks(range(len(sweep)), [str(row["threads"]) for row in sweep])
    right.set(xlabel="threads", ylabel="img/s", ylim=(0, None), title=named)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    plt.close(figure)
