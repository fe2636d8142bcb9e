"""What a plan that was measured in one process would take on many ranks. Everything here is predicted.

A stage takes T = N·alpha/(b·P) + N·beta/P + Ω, with N items, b of them a request, P at work side by side, alpha what a
request costs, beta what an item costs and Ω what the framework costs (AAFLOW, arXiv 2605.02162). All of them come from
reports of runs on this machine. Here P is what can really be at work: cores for what computes, of which a process with
threads has more than one, and calls that are answered at once for what waits; and shares are whole requests. Messages
cost what LogGP says (Alexandrov, Ionescu, Schauser and Scheiman, SPAA 1995).

A process has one interpreter, for which its threads wait in turns, and that is no work: it is there in one process, in
the busy seconds of stages that compute side by side, and not among ranks. `at_work` leaves it out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, inf
from typing import Final

from aaflow_plugins.report import Calls, Report

#: What rank 0 does by itself where it leads.
_LED: Final = frozenset({"load", "upsert"})

#: What ranks do together in a run over shards: agreements (begin, plan, sample, end, and two for each exchange), and
#: exchanges of all with all (how many texts, those across blocks, their vectors, what each has stored).
_AGREEMENTS: Final = 18
_EXCHANGES: Final = 7
#: Bytes that an exchange sends to a rank for which it has nothing.
_NOTHING: Final = 512


@dataclass(frozen=True)
class Network:
    """LogGP's parameters; its gap between messages is taken to be no longer than the overhead.

    The defaults are assumptions: a 10 Gbit/s network, and messages that Python code sends.

    Attributes:
        latency: L, seconds on the way.
        bandwidth: 1/G, bytes a second.
        overhead: o, seconds that a message costs its sender, and again its receiver.
    """

    latency: float = 20e-6
    bandwidth: float = 1.25e9
    overhead: float = 20e-6

    def message(self, size: float) -> float:
        """Seconds until a message has arrived: o + size·G + L + o."""
        return 2 * self.overhead + self.latency + size / self.bandwidth

    def agreement(self, ranks: int) -> float:
        """Seconds until all ranks know that all agree: a few bytes up a binary tree and down again."""
        return 2 * (ranks - 1).bit_length() * self.message(64)

    def exchange(self, ranks: int, size: float) -> float:
        """Seconds in which a rank sends `size` bytes to one other, and next to nothing to each of the rest."""
        if ranks == 1:
            return 0.0
        each = 2 * self.overhead + _NOTHING / self.bandwidth
        return (ranks - 1) * each + self.latency + size / self.bandwidth


@dataclass(frozen=True)
class Cluster:
    """Where the ranks run.

    Attributes:
        cores: Cores of a node; a fraction where cores side by side are slower than one alone.
        ranks_a_node: Ranks of a node.
        max_concurrency: Model calls that are answered at once, for the whole job. None: on each rank as many as were
            under way in the measured process.
        network: Between the ranks.
    """

    cores: float = 1.0
    ranks_a_node: int = 1
    max_concurrency: int | None = None
    network: Network = Network()

    def computing(self, ranks: int) -> float:
        """Cores at work, one a rank at most."""
        full, rest = divmod(ranks, self.ranks_a_node)
        return full * min(self.ranks_a_node, self.cores) + min(rest, self.cores)

    def all_cores(self, ranks: int) -> float:
        """Cores of the nodes that the ranks are on."""
        return ceil(ranks / self.ranks_a_node) * self.cores

    def waiting(self, ranks: int, measured: float) -> float:
        """Model calls at once."""
        return ranks * measured if self.max_concurrency is None else float(self.max_concurrency)


@dataclass(frozen=True)
class Stage:
    """What an operator costs.

    Attributes:
        name: Kind and name.
        kind: Kind of operator.
        rows: Rows that it hands on for each item of the source.
        request: Alpha, seconds a request; 0 where all measured requests were of one size, so that it is in `item`.
        item: Beta, seconds an item of a request (for an operator without requests, a row that it hands on).
        framework: Ω for each row: what it took beside its requests.
        batch: b, items a request; 0 without requests.
        waits: Share of both that is spent waiting, and not by a core.
        at_once: Requests that were under way together, on average.
        start: Seconds that each rank takes, whatever its share (a tokenizer is loaded); 0 where that cannot be told, as
            all measured runs were of one size, or there are requests.
        led: Whether rank 0 does it by itself where it leads.
        cores: Cores at work in it in the measured process, those of a library's threads among them; 1 at least.
    """

    name: str
    kind: str
    rows: float
    request: float
    item: float
    framework: float = 0.0
    batch: float = 0.0
    waits: float = 0.0
    at_once: float = 1.0
    start: float = 0.0
    led: bool = False
    cores: float = 1.0

    def seconds(self, items: int, ranks: int, cluster: Cluster, apart: int = 0) -> float:
        """Seconds of the busiest rank for its share of the source's items, without `apart` of the requests."""
        cores = self.cores * replace(cluster, cores=cluster.cores / self.cores).computing(ranks)
        computed = self.computed(items, ranks, apart) / cores
        if not self.batch:
            return computed
        requests = max(0, self._requests(items) - apart)
        # A single request may be smaller than the others were.
        each = self.request + min(self.batch, items * self.rows) * self.item
        least = ceil(requests / ranks) * each * (1 - self.waits)
        calls = min(max(1, requests), cluster.waiting(ranks, self.at_once))
        return max(computed, least) + ceil(requests / calls) * each * self.waits

    def computed(self, items: int, ranks: int, apart: int = 0) -> float:
        """Seconds of cores, on all ranks together, for the source's items, without `apart` of the requests."""
        rows = items * self.rows
        if not self.batch:
            return self.cores * (ranks * self.start + rows * (self.framework + self.item))
        share = max(0.0, 1 - apart / self._requests(items))
        each = self.framework + (self.request / self.batch + self.item) * (1 - self.waits)
        return self.cores * share * rows * each

    def _requests(self, items: int) -> int:
        return max(1, ceil(items * self.rows / self.batch))


@dataclass(frozen=True)
class Costs:
    """What a run costs, from reports.

    Attributes:
        stages: In the plan's order.
        items: Items of the source in the (largest) measured run.
        overlap: How much of what could overlap did: 0 if one stage came after another, 1 if the longest hid all others.
        framework: Ω of the run: seconds that no operator accounts for.
        memory: Bytes kept for each item of the source; 0 where that is not known.
        in_flight: Bytes in flight at most, by the schedule.
        row: Bytes of a row between ranks: text and vector. An assumption.
        handing: Seconds in which rank 0, where it leads, packs and unpacks a row. An assumption.
    """

    stages: tuple[Stage, ...]
    items: int
    overlap: float = 0.0
    framework: float = 0.0
    memory: float = 0.0
    in_flight: int = 0
    row: float = 4096.0
    handing: float = 13e-6

    @property
    def cores(self) -> float:
        """Cores at work in the measured process while it computed, in the stage that had most."""
        return max(stage.cores for stage in self.stages)


@dataclass(frozen=True)
class Prediction:
    """What is predicted for a number of ranks.

    Attributes:
        ranks: How many.
        items: Items of the source, on all ranks together.
        stages: Seconds of each stage on the busiest rank.
        exchange: Seconds of what ranks tell one another, and of a batch of texts that lies across two blocks, for which
            several wait.
        total: Seconds from start to end.
        memory: Bytes kept by the rank that keeps most.
        efficiency: One rank's time for the items of one rank, over this; 1 is perfect.
    """

    ranks: int
    items: int
    stages: tuple[float, ...]
    exchange: float
    total: float
    memory: float
    efficiency: float


def costs_of(reports: Sequence[Report], batch: int | None = None) -> Costs:
    """What the operators of a plan cost.

    Args:
        reports: Of one plan, each run in one process. Runs with requests of several sizes tell the cost of a request
            from that of an item; runs of several numbers of documents tell time and memory that grow from what any run
            takes.
        batch: Items a request. None: as in the largest run.

    Raises:
        ValueError: If there is no report, one has no rows, they are of different plans, or do not tell what requests of
            another size would cost.
    """
    if not reports:
        raise ValueError("no report")
    plans = {tuple((each.kind, each.name) for each in report.operators) for report in reports}
    if len(plans) > 1:
        raise ValueError("the reports are of different plans")
    if not all(report.operators and report.operators[0].rows for report in reports):
        raise ValueError("a report has no rows: nothing ran")
    largest = max(reports, key=lambda report: report.operators[0].rows)
    stages = tuple(_stage(reports, at, largest) for at in range(len(largest.operators)))
    items = largest.operators[0].rows
    if any(stage.batch and not stage.request for stage in stages) and batch is not None:
        raise ValueError(
            "all measured requests cost the same: what others would cost takes a report of another batch size"
        )
    alone = [_elapsed(largest, at) for at in range(len(stages))]
    longest, added = max(alone), sum(alone)
    hideable = added - longest
    overlap = min(1.0, max(0.0, (added - largest.wall_seconds) / hideable)) if hideable > 0 else 0.0
    framework = max(0.0, largest.wall_seconds - added)
    cores = _cores(largest, framework)
    stages = tuple(
        replace(stage, cores=each, batch=batch if batch and stage.batch else stage.batch)
        for stage, each in zip(stages, cores, strict=True)
    )
    return Costs(
        stages,
        items,
        overlap,
        framework,
        _grown(largest, min(reports, key=lambda report: report.operators[0].rows)),
        largest.in_flight_bytes,
    )


def at_work(report: Report) -> list[float]:
    """Seconds that each operator of a run in one process was at work: busy, and not waiting for the interpreter.

    What it was busy beside its CPU time is waiting, for a model or for the interpreter. Threads that take turns wait
    for the interpreter no longer than they have it, nor than the others do; so much of the waiting is taken to be that.
    """
    together = sum(each.cpu_seconds for each in report.operators)
    return [
        each.busy_seconds
        - max(0.0, min(each.busy_seconds - each.cpu_seconds, each.cpu_seconds, together - each.cpu_seconds))
        for each in report.operators
    ]


def predict(
    costs: Costs, ranks: int, cluster: Cluster, *, items: int | None = None, gather: str = "root"
) -> Prediction:
    """What a run takes on some ranks.

    Args:
        costs: What was measured.
        ranks: How many.
        cluster: Where they run.
        items: Items of the source; None for as many as were measured.
        gather: "root": rank 0 loads, stores, and hands out what lies between. "shards": each rank does all of it for
            its block.

    Raises:
        ValueError: If a number is less than 1, a node has no core, or `gather` is not known.
    """
    if gather not in ("root", "shards"):
        raise ValueError(f"gather must be 'root' or 'shards', not {gather!r}")
    count = costs.items if items is None else items
    if min(count, ranks, cluster.ranks_a_node) < 1:
        raise ValueError("items, ranks and ranks a node must be at least 1")
    network = cluster.network
    if not (0 < cluster.cores < inf and network.bandwidth > 0):
        raise ValueError("cores and bandwidth must be positive numbers")
    if not (0 <= network.latency < inf and 0 <= network.overhead < inf):
        raise ValueError("latency and overhead must be numbers of microseconds, 0 or more")
    if cluster.max_concurrency is not None and cluster.max_concurrency < 1:
        raise ValueError("max_concurrency must be at least 1")
    stages, exchange, total = _times(costs, count, ranks, cluster, gather)
    _, _, alone = _times(costs, count, 1, cluster, gather)
    kept = costs.memory * (ceil(count / ranks) if gather == "shards" else count)
    return Prediction(ranks, count, stages, exchange, total, kept, alone / (ranks * total) if total else 1.0)


def _times(
    costs: Costs, items: int, ranks: int, cluster: Cluster, gather: str
) -> tuple[tuple[float, ...], float, float]:
    leads = gather == "root" and ranks > 1
    led = [leads and stage.led for stage in costs.stages]
    # What rank 0 does by itself has a core of its own, and one caller. Of shards, a batch of each rank comes first.
    apart = 0 if leads or ranks == 1 else ranks
    times = tuple(
        stage.seconds(items, 1, cluster) if alone else stage.seconds(items, ranks, cluster, apart)
        for stage, alone in zip(costs.stages, led, strict=True)
    )
    by_itself = sum(each for each, alone in zip(times, led, strict=True) if alone)
    shared = sum(times) - by_itself
    exchange = (
        _led_exchange(costs, items, ranks, cluster, by_itself, shared)
        if leads
        else _exchange(costs, ranks, cluster.network)
    )
    longest = max(times)
    shown = longest + (1 - costs.overlap) * (sum(times) - longest)
    # What overlaps in one rank has to find a core, too.
    computed = sum(stage.computed(items, ranks, apart) for stage in costs.stages) / cluster.all_cores(ranks)
    if not leads:
        return times, exchange, max(shown, computed) + exchange + costs.framework
    # Rank 0 does less of what it hands out, the more it has to do by itself.
    serial = by_itself + exchange
    return times, exchange, max(serial, serial / ranks + shared, computed) + costs.framework


def _exchange(costs: Costs, ranks: int, network: Network) -> float:
    """Over shards: agreements, and a batch of texts on each rank, whose vectors may belong to two."""
    if ranks == 1:
        return 0.0
    batch, one, whole = _requests(costs)
    exchanges = _EXCHANGES * network.exchange(ranks, batch * costs.row)
    return _AGREEMENTS * network.agreement(ranks) + exchanges + one + whole


def _led_exchange(costs: Costs, items: int, ranks: int, cluster: Cluster, by_itself: float, shared: float) -> float:
    """What rank 0 does to hand out what others do: a message for each request, one back, and the rows in them."""
    network = cluster.network
    _, one, _ = _requests(costs)
    everything = 0.0
    for stage in costs.stages:
        if not stage.led:
            rows = items * stage.rows
            messages = ceil(rows / (stage.batch or 512))
            everything += messages * 2 * network.overhead + rows * (costs.handing + costs.row / network.bandwidth)
    own = _own_share(ranks, by_itself, shared, everything)
    return 4 * network.agreement(ranks) + one + everything * (1 - own)


def _own_share(ranks: int, by_itself: float, shared: float, handing: float) -> float:
    """The part x of what is shared that rank 0 does: it has time for it while the others do the rest.

    All are done at once if what rank 0 does is as long as a rank's part of everything, s + h(1-x) + x·P·c
    = (s + h(1-x))/P + c: s seconds by itself, h to hand everything out, and c for a rank's part of what is shared. With
    more by itself than that rank 0 does none of it.

    Args:
        ranks: P.
        by_itself: s.
        shared: c.
        handing: h.
    """
    beside = 1 - 1 / ranks
    least = ranks * shared - handing * beside
    if least <= 0:  # handing it out takes longer than doing it
        return 1 / ranks
    return min(1 / ranks, max(0.0, (shared - (by_itself + handing) * beside) / least))


def _requests(costs: Costs) -> tuple[float, float, float]:
    """Items a request; the seconds of one with one item, by which ranks compare their models; and of a whole one."""
    model = max(costs.stages, key=lambda stage: stage.batch)
    if not model.batch:
        return 0.0, 0.0, 0.0
    return model.batch, model.request + model.item, model.request + model.batch * model.item


def _grown(large: Report, small: Report) -> float:
    """Bytes that an item leaves behind; what any run does, imports for example, shows in two runs alike."""
    more = large.operators[0].rows - small.operators[0].rows
    if more and large.grown_bytes > small.grown_bytes > 0:
        return (large.grown_bytes - small.grown_bytes) / more
    return large.grown_bytes / large.operators[0].rows


# -- from reports to costs -------------------------------------------------------------------------------


def _stage(reports: Sequence[Report], at: int, largest: Report) -> Stage:
    operators = [report.operators[at] for report in reports]
    first = operators[0]
    sources = sum(report.operators[0].rows for report in reports)
    rows = sum(each.rows for each in operators)
    times = [at_work(report)[at] for report in reports]
    calls = [_calls_at_work(report, at) for report in reports]
    called = sum(each.seconds for each in calls)
    name = f"{first.kind} {first.name}"
    led = first.kind in _LED or first.alone
    if not all(each.items for each in calls):
        runs = zip(operators, times, strict=True)
        start, item = _line([Calls(1, each.rows, seconds) for each, seconds in runs]) if rows else (0.0, 0.0)
        return Stage(name, first.kind, rows / sources, 0.0, item, start=start, led=led)
    request, item = _line(calls)
    idle = sum(_idle(report, at) for report in reports)
    modelled = sum(report.model_seconds for report in reports)
    own = largest.calls_of(at)
    return Stage(
        name,
        first.kind,
        rows / sources,
        request,
        item,
        max(0.0, sum(times) - called) / rows,
        own.items / own.count,
        min(1.0, idle / called) if called else 0.0,
        max(1.0, called / modelled) if modelled else 1.0,
        led=led,
    )


def _calls_at_work(report: Report, at: int) -> Calls:
    """The model calls of an operator, without their waiting for the interpreter."""
    calls, busy = report.calls_of(at), report.operators[at].busy_seconds
    return replace(calls, seconds=calls.seconds * at_work(report)[at] / busy) if busy else calls


def _idle(report: Report, at: int) -> float:
    """Seconds of an operator's calls that no core of this process accounts for."""
    computed = [each.cpu_seconds for each in report.operators]
    if not any(computed):  # as where it is not known: what is no call has computed
        called = (report.calls_of(number).seconds for number in range(len(report.operators)))
        computed = [max(0.0, each.busy_seconds - calls) for each, calls in zip(report.operators, called, strict=True)]
    return max(0.0, at_work(report)[at] - computed[at] - _of_others(report, computed))


def _of_others(report: Report, computed: Sequence[float]) -> float:
    """CPU seconds of threads that are nobody's here: a model may have some of its own."""
    return max(0.0, report.cpu_seconds - sum(computed))


def _cores(report: Report, framework: float) -> list[float]:
    """Cores at work in each operator; where that is not known, as in all of the run.

    Args:
        report: Of the run.
        framework: Its seconds that no operator accounts for.
    """
    computed, times = [each.cpu_seconds for each in report.operators], at_work(report)
    if not any(computed):
        accounted = sum(times) + framework
        return [max(1.0, report.cpu_seconds / accounted) if accounted else 1.0] * len(times)
    others = _of_others(report, computed)
    of_models = (others if report.calls_of(number).items else 0.0 for number in range(len(times)))
    return [
        max(1.0, (own + more) / seconds) if seconds else 1.0
        for own, more, seconds in zip(computed, of_models, times, strict=True)
    ]


def _elapsed(report: Report, at: int) -> float:
    """Seconds in which an operator was at work, calls that were under way together counted once."""
    called = _calls_at_work(report, at).seconds
    together = max(1.0, called / report.model_seconds) if report.model_seconds else 1.0
    return max(0.0, at_work(report)[at] - called) + called / together


def _line(calls: Sequence[Calls]) -> tuple[float, float]:
    """Alpha and beta, neither negative, by least squares over the runs' mean calls: seconds = alpha + beta·items."""
    count = sum(each.count for each in calls)
    items = sum(each.items for each in calls)
    seconds = sum(each.seconds for each in calls)
    spread = count * sum(each.items**2 / each.count for each in calls) - items**2
    if spread < 1e-6 * items**2:
        return 0.0, seconds / items
    item = (count * sum(each.items * each.seconds / each.count for each in calls) - items * seconds) / spread
    if item < 0:
        return seconds / count, 0.0
    request = (seconds - item * items) / count
    return (request, item) if request >= 0 else (0.0, seconds / items)
