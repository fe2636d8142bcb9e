"""Results as a picture: one panel a case, one bar a contender, from zero, with the range of its repeats."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

from benchmarks.results import Results
from benchmarks.table import seconds, warnings

_COLORS = {"native": "#8a8f98", "ours": "#1f6feb", "part": "#d8dbe0"}


def draw(results: Results, path: Path) -> None:
    """Write a PNG: medians as bars, lowest and highest as whiskers, each panel with a scale of its own."""
    cases = results.cases
    heights = [0.5 + 0.3 * len(case.contenders) for case in cases]
    figure, panels = pyplot.subplots(
        len(cases), 1, figsize=(9, sum(heights) + 0.8), squeeze=False, height_ratios=heights, layout="constrained"
    )
    for panel, case in zip(panels[:, 0], cases, strict=True):
        spreads = [contender.spread(results.metric) for contender in case.contenders]
        medians = [spread.median for spread in spreads]
        reach = [
            [spread.median - spread.low for spread in spreads],
            [spread.high - spread.median for spread in spreads],
        ]
        bars = panel.barh(
            [contender.name for contender in case.contenders],
            medians,
            xerr=reach,
            color=[_COLORS[contender.role] for contender in case.contenders],
            error_kw={"elinewidth": 1, "capsize": 2},
        )
        panel.bar_label(bars, [f" {seconds(median)}" for median in medians], fontsize=8)
        panel.set_title(case.name, loc="left", fontsize=9)
        panel.invert_yaxis()
        panel.set_xlim(0, max(spread.high for spread in spreads) * 1.15 or 1)
        panel.tick_params(labelsize=8)
        panel.set_xticks([])
        for side in ("top", "right", "bottom"):
            panel.spines[side].set_visible(False)
    metric = {"wall": "wall time", "cpu": "CPU time"}[results.metric]
    heading = f"{results.title}: {metric}, median and range of {results.repeats}"
    figure.suptitle("\n".join([heading, *warnings(results)]), fontsize=10)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
