"""Predictions for people to read: what was measured, what follows from it, and what was assumed."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table

from aaflow_plugins.prediction import Cluster, Costs, Prediction


def costs_table(costs: Costs) -> Table:
    """What each operator cost in one process."""
    table = Table(title=f"measured in one process, {costs.items:,} documents")
    table.add_column("operator")
    titles = (
        "rows a document",
        "a request (alpha)",
        "an item (beta)",
        "beside (Ω), a row",
        "items a request",
        "a rank",
    )
    for title in titles:
        table.add_column(title, justify="right")
    for stage in costs.stages:
        table.add_row(
            stage.name,
            f"{stage.rows:,.2f}",
            _duration(stage.request) if stage.request else "-",
            _duration(stage.item),
            _duration(stage.framework) if stage.batch else "-",
            f"{stage.batch:,.1f}" if stage.batch else "-",
            _duration(stage.start) if stage.start else "-",
        )
    table.add_row("no operator", "", "", "", f"{costs.framework:.3f} s a run", "", "")
    return table


def predictions_table(costs: Costs, predictions: Sequence[Prediction], gather: str) -> Table:
    """What is predicted, one row for each number of ranks."""
    title = f"predicted, not measured; results in {gather}; seconds of the busiest rank"
    table = Table(title=title, box=box.SIMPLE, padding=(0, 1, 0, 0))  # ten columns in a terminal's usual width
    for title in ("ranks", "docu-\nments", *(stage.kind for stage in costs.stages), "ex-\nchange", "total"):
        table.add_column(title, justify="right")
    table.add_column("MiB a rank", justify="right")
    table.add_column("effi-\nciency", justify="right")
    for each in predictions:
        table.add_row(
            f"{each.ranks:,}",
            f"{each.items}",
            *map(_seconds, (*each.stages, each.exchange, each.total)),
            f"{each.memory / 2**20:,.0f}" if each.memory else "-",
            f"{each.efficiency:.0%}",
        )
    return table


def assumptions(costs: Costs, cluster: Cluster) -> str:
    """What the prediction takes for granted."""
    network = cluster.network
    calls = "as many on each rank as were measured" if cluster.max_concurrency is None else str(cluster.max_concurrency)
    together = ""
    if any(stage.batch and not stage.request for stage in costs.stages):
        together = (
            "All measured requests were of about one size: alpha is within beta. A report of a run with another batch "
            "size tells them apart.\n"
        )
    return (
        f"{together}Assumed: nodes of {cluster.cores:g} cores with {cluster.ranks_a_node} ranks each, as fast as this "
        f"machine; model calls at once: {calls}; a network of {network.latency * 1e6:g} µs, "
        f"{network.bandwidth * 8e-9:g} Gbit/s and {network.overhead * 1e6:g} µs a message on each side (LogGP); shares "
        f"of equal size; what threads of the measured process waited for its interpreter is no work; rank 0, where it "
        f"leads, packs and unpacks a row in {costs.handing * 1e6:g} µs; {costs.overlap:.0%} of what can overlap in a "
        f"rank does, and a rank that computes has up to {costs.cores:.2f} cores at work if there are so many, both as "
        "measured."
    )


def _seconds(seconds: float) -> str:
    """As many places as tell something, so that a row fits on a line."""
    return f"{seconds:.3f}" if seconds < 10 else f"{seconds:.1f}" if seconds < 1000 else f"{seconds:,.0f}"


def _duration(seconds: float) -> str:
    return f"{seconds * 1e3:,.2f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:,.2f} µs"
