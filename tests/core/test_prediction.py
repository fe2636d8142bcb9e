"""Predictions from measured costs: the formula, its limits, and what a run's report says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from aaflow_plugins.cli import app
from aaflow_plugins.prediction import Cluster, Costs, Network, Stage, _own_share, at_work, costs_of, predict
from aaflow_plugins.report import Calls, OperatorReport, Report, Span

ALPHA, BETA, BATCH = 0.02, 0.0015, 64
#: No network at all, a core for each rank.
IDEAL = Cluster(network=Network(0.0, 1e30, 0.0))


def report(
    documents: int = 512, *, batch: int = BATCH, overlap: float = 0.0, idle: float = 1.0, at_once: int = 1
) -> Report:
    """Of a run of 4 chunks a document, in requests that cost what is known; a last request may be smaller."""
    rows = 4 * documents
    sizes = [batch] * (rows // batch) + ([rows % batch] if rows % batch else [])
    calls = Calls(len(sizes), rows, ALPHA * len(sizes) + BETA * rows)
    split, upsert, beside = 100e-6 * rows, 50e-6 * rows, 10e-6 * rows
    busy = calls.seconds + beside
    wall = calls.seconds / at_once + beside + (1 - overlap) * (split + upsert)
    return Report(
        [
            OperatorReport("load", "documents", rows=documents, batches=1),
            OperatorReport("split", "S", rows=rows, batches=1, busy_seconds=split),
            OperatorReport("embed", "E", rows=rows, batches=len(sizes), busy_seconds=busy, calls=calls),
            OperatorReport("upsert", "F", rows=rows, batches=len(sizes), busy_seconds=upsert),
        ],
        wall_seconds=wall + 0.5,
        cpu_seconds=split + upsert + beside + (1 - idle) * calls.seconds,
        model_seconds=calls.seconds / at_once,
        resident_bytes=1,
        grown_bytes=10_000_000 + 2000 * documents,
        in_flight_bytes=1000,
    )


def stage(costs: Costs, kind: str) -> Stage:
    return next(each for each in costs.stages if each.kind == kind)


def test_a_report_comes_back_from_json() -> None:
    first = report()
    assert Report.from_json(first.to_json()) == first
    content = json.loads(first.to_json())
    assert content["operators"][2]["calls"]["count"] == 32
    # As releases before wrote it.
    del content["operators"][2]["calls"], content["grown_bytes"], content["resident_bytes"]
    assert Report.from_json(json.dumps(content)).operators[2].calls == Calls()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"operators": [{"a": 1}]}', '{"operators": [], "b": 1}', '"x"'])
def test_what_is_no_report_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="this is no report"):
        Report.from_json(text)


def test_requests_of_two_sizes_tell_alpha_from_beta() -> None:
    embed = stage(costs_of([report(), report(batch=16)]), "embed")
    assert embed.request == pytest.approx(ALPHA)
    assert embed.item == pytest.approx(BETA)
    assert embed.framework == pytest.approx(10e-6)
    assert embed.batch == BATCH
    other = costs_of([report(), report(batch=16)], batch=256)
    larger, smaller = (predict(each, 1, IDEAL, items=4096).stages[2] for each in (other, costs_of([report(batch=64)])))
    assert smaller - larger == pytest.approx(4 * 4096 * ALPHA * (1 / 64 - 1 / 256), rel=0.02)
    with pytest.raises(ValueError, match="report of another batch size"):
        costs_of([report()], batch=256)
    alone = stage(costs_of([report()]), "embed")
    assert alone.request == 0.0
    assert alone.item == pytest.approx(BETA + ALPHA / BATCH)
    assert (alone.batch, alone.rows) == (BATCH, 4.0)


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(1, 500), st.floats(1e-3, 10.0)), min_size=1, max_size=5))
def test_no_cost_is_negative_and_all_time_is_accounted_for(runs: list[tuple[int, int, float]]) -> None:
    reports = []
    for count, batch, seconds in runs:
        calls = Calls(count, count * batch, seconds)
        operators = [OperatorReport("embed", "E", rows=calls.items, busy_seconds=seconds, calls=calls)]
        reports.append(Report(operators, wall_seconds=seconds, model_seconds=seconds))
    (embed,) = costs_of(reports).stages
    assert embed.request >= 0
    assert embed.item >= 0
    count, items, seconds = (sum(each) for each in zip(*((c, c * b, s) for c, b, s in runs), strict=True))
    assert count * embed.request + items * embed.item == pytest.approx(seconds)


def test_calls_are_counted_by_the_timeline_of_a_run() -> None:
    spans = [Span("embed", "driver", start, start + 0.5, model) for start, model in ((0, True), (1, True), (2, False))]
    operators = [OperatorReport("load", "D", rows=2), OperatorReport("embed", "E", rows=100, busy_seconds=1.1)]
    ran = Report(operators, wall_seconds=2.0, model_seconds=1.0, spans=spans)
    assert ran.calls_of(1) == Report.from_json(ran.to_json()).calls_of(1) == Calls(2, 100, 1.0)
    assert ran.calls_of(0) == Calls()
    embed = costs_of([ran]).stages[1]
    assert (embed.batch, embed.item, embed.framework) == (50, pytest.approx(0.01), pytest.approx(0.001))


def test_one_rank_takes_what_was_measured() -> None:
    for overlap in (0.0, 0.5, 1.0):
        for idle in (0.0, 1.0):
            measured = report(overlap=overlap, idle=idle)
            costs = costs_of([measured])
            # Half a second that no operator accounts for: what is hidden can't be told from it.
            predicted = predict(costs, 1, Cluster(cores=2, ranks_a_node=2))
            assert predicted.total == pytest.approx(measured.wall_seconds, rel=1e-6)
            assert predicted.efficiency == 1.0
            for seconds, operator in zip(predicted.stages, measured.operators, strict=True):
                assert seconds == pytest.approx(operator.busy_seconds, rel=1e-6)


def test_waiting_for_the_interpreter_is_no_work() -> None:
    """A stage that computes beside another is busy longer than it is at work; one that waits for a model is not."""
    alone, beside = report(idle=0.0), report(idle=0.0)
    for measured, waiting in ((alone, (0.0, 0.0)), (beside, (0.09, 0.1))):
        split, embed, upsert = measured.operators[1:]
        split.cpu_seconds, embed.cpu_seconds, upsert.cpu_seconds = (
            each.busy_seconds for each in measured.operators[1:]
        )
        embed.busy_seconds, upsert.busy_seconds = embed.busy_seconds + waiting[0], upsert.busy_seconds + waiting[1]
        embed.calls = replace(embed.calls, seconds=embed.calls.seconds + waiting[0])
    assert at_work(beside) == pytest.approx([each.busy_seconds for each in alone.operators])
    for one, other in zip(costs_of([alone]).stages, costs_of([beside]).stages, strict=True):
        assert one.item == pytest.approx(other.item, rel=0.01)
        assert one.waits == pytest.approx(other.waits, abs=0.001)
    model = report(idle=1.0)
    for each in model.operators:
        each.cpu_seconds = each.busy_seconds - each.calls.seconds
    embed = stage(costs_of([model]), "embed")
    assert embed.waits == pytest.approx(1.0, abs=0.01)
    assert embed.item * BATCH == pytest.approx(ALPHA + BETA * BATCH, rel=0.01)


def test_what_no_other_process_could_do_is_rank_0s() -> None:
    measured = report()
    assert not stage(costs_of([measured]), "split").led
    measured.operators[1].alone = True
    costs = costs_of([measured])
    assert [stage.led for stage in costs.stages] == [True, True, False, True]
    assert predict(costs, 4, IDEAL).stages[1] == pytest.approx(measured.operators[1].busy_seconds)


def test_a_process_with_threads_of_its_own_leaves_fewer_cores_to_others() -> None:
    threaded = replace(report(idle=0.0), cpu_seconds=1.6 * report().wall_seconds)
    costs = costs_of([threaded])
    assert costs.cores == pytest.approx(1.6)
    two_cores = Cluster(cores=2, ranks_a_node=2, network=IDEAL.network)
    one, two = (predict(costs, ranks, two_cores, gather="shards").stages[1] for ranks in (1, 2))
    assert one == pytest.approx(threaded.operators[1].busy_seconds)
    assert one / two == pytest.approx(2 / 1.6)
    assert costs_of([report()]).cores == 1.0


def test_threads_that_are_nobodys_are_the_models() -> None:
    """A splitter that has one core gains by a second rank what the model's threads have left it."""
    measured = report(idle=0.0)
    for each in measured.operators:
        each.cpu_seconds = each.busy_seconds
    embedding = measured.operators[2].busy_seconds
    costs = costs_of([replace(measured, cpu_seconds=measured.cpu_seconds + 0.8 * embedding)])
    assert [each.cores for each in costs.stages] == [1.0, 1.0, pytest.approx(1.8), 1.0]
    two_cores = Cluster(cores=2, ranks_a_node=2, network=IDEAL.network)
    one, two = (predict(costs, ranks, two_cores) for ranks in (1, 2))
    gains = [alone / each if each else 0.0 for alone, each in zip(one.stages, two.stages, strict=True)]
    assert gains == [0.0, pytest.approx(2.0), pytest.approx(2 / 1.8, rel=0.02), 1.0]
    # What computes at the same time shares the cores.
    overlapping = replace(costs, overlap=1.0)
    work = sum(each.cores * seconds for each, seconds in zip(costs.stages, one.stages, strict=True))
    shared = predict(overlapping, 2, two_cores, gather="shards")
    assert shared.total - shared.exchange - costs.framework == pytest.approx(work / 2, rel=0.1)


def test_runs_of_two_sizes_tell_what_each_rank_takes_whatever_its_share() -> None:
    def with_start(documents: int) -> Report:
        made = report(documents)
        made.operators[1].busy_seconds += 0.3
        return made

    costs = costs_of([with_start(512), with_start(64)])
    split = stage(costs, "split")
    assert (split.start, split.item) == (pytest.approx(0.3), pytest.approx(100e-6))
    # Each of four ranks, of which two have a core at a time.
    two_cores = Cluster(cores=2, ranks_a_node=4)
    assert predict(costs, 4, two_cores, gather="shards").stages[1] == pytest.approx(100e-6 * 4 * 512 / 2 + 2 * 0.3)
    assert stage(costs_of([with_start(512)]), "split").start == 0.0


def test_calls_that_were_under_way_together_stay_so_on_each_rank_unless_they_are_bounded() -> None:
    measured = report(8192, at_once=4)
    costs = costs_of([measured])
    assert predict(costs, 1, IDEAL).total == pytest.approx(measured.wall_seconds, rel=1e-6)
    one, two = (predict(costs, ranks, IDEAL, gather="shards").stages[2] for ranks in (1, 2))
    assert one == pytest.approx(2 * two, rel=0.02)
    bound = Cluster(max_concurrency=4, network=IDEAL.network)
    assert predict(costs, 2, bound, gather="shards").stages[2] == pytest.approx(one, rel=0.02)


@pytest.mark.parametrize("ranks", [1, 2, 4, 8, 32])
def test_without_a_network_stages_follow_the_formula(ranks: int) -> None:
    costs = costs_of([report(), report(batch=16)])
    predicted = predict(costs, ranks, IDEAL, gather="shards", items=4096)
    rows = 4 * 4096
    formula = rows * ALPHA / (BATCH * ranks) + rows * BETA / ranks + 10e-6 * rows / ranks
    whole_requests = (ALPHA + BETA * BATCH) * 1.01
    load, split, embed, upsert = predicted.stages
    assert load == 0
    assert split == pytest.approx(100e-6 * rows / ranks)
    assert formula * 0.999 - (whole_requests if ranks > 1 else 0) <= embed <= formula + whole_requests
    assert upsert == pytest.approx(50e-6 * rows / ranks)
    # A batch that lies across two blocks, and a sample.
    assert predicted.exchange == pytest.approx((2 * ALPHA + BETA * (BATCH + 1)) if ranks > 1 else 0, abs=1e-9)


def test_shares_are_whole_requests() -> None:
    costs = costs_of([report()])  # 32 requests
    one = ALPHA + BETA * BATCH
    for ranks, requests in ((2, 15), (4, 7), (31, 1), (32, 0), (2048, 0)):
        # One of each rank comes first, side by side.
        predicted = predict(costs, ranks, IDEAL, gather="shards")
        assert predicted.stages[2] == pytest.approx(requests * one, rel=0.01)
        assert predicted.exchange >= one
    led = predict(costs, 31, IDEAL, gather="root").stages[2]
    assert led == pytest.approx(2 * one, rel=0.01)
    assert predict(costs, 2048, IDEAL, gather="root").stages[2] == pytest.approx(one, rel=0.01)


def test_what_computes_is_bounded_by_cores_and_what_waits_by_calls_at_once() -> None:
    costs = costs_of([report(8192)])
    narrow = Cluster(cores=2, ranks_a_node=4, network=IDEAL.network)
    two, four = (predict(costs, ranks, narrow, gather="shards") for ranks in (2, 4))
    assert two.stages[1] == four.stages[1]
    assert four.stages[2] == pytest.approx(two.stages[2] / 2, rel=0.05)
    assert predict(costs, 8, narrow, gather="shards").stages[1] == pytest.approx(two.stages[1] / 2)
    bound = Cluster(max_concurrency=2, network=IDEAL.network)
    assert predict(costs, 8, bound, gather="shards").stages[2] == pytest.approx(two.stages[2], rel=0.05)
    computing = costs_of([report(8192, idle=0.0)])
    assert predict(computing, 8, bound, gather="shards").stages[2] == pytest.approx(two.stages[2] / 4, rel=0.05)


def test_cores_that_slow_each_other_down_count_as_less() -> None:
    costs = costs_of([report()])
    whole, slower = (
        predict(costs, 2, Cluster(cores=cores, ranks_a_node=2), gather="shards").stages[1] for cores in (2.0, 1.6)
    )
    assert slower == pytest.approx(whole * 2 / 1.6)


def test_what_overlaps_in_one_rank_finds_no_core_where_all_are_taken() -> None:
    costs = costs_of([report(overlap=1.0, idle=0.0)])
    cluster = Cluster(cores=2, ranks_a_node=2, network=IDEAL.network)
    two = predict(costs, 2, cluster, gather="shards")
    assert two.total - costs.framework - two.exchange == pytest.approx(sum(two.stages), rel=0.01)


def test_rank_0_bounds_what_it_leads() -> None:
    costs = costs_of([report(8192)])
    root, shards = (predict(costs, 1024, Cluster(), gather=gather) for gather in ("root", "shards"))
    led = root.stages[0] + root.stages[3]
    assert root.stages[3] == pytest.approx(50e-6 * 4 * 8192)
    assert root.total >= led + root.exchange
    assert shards.total < root.total / 2
    assert (root.memory, shards.memory) == (costs.memory * 8192, costs.memory * 8)


@pytest.mark.parametrize("ranks", [2, 4, 100])
@pytest.mark.parametrize("busy", [0.0, 0.1, 0.3, 0.9])
def test_rank_0_does_what_it_has_time_for(ranks: int, busy: float) -> None:
    """All ranks are done at once, or rank 0 does nothing but what only it can do and hand out the rest."""
    shared, handing = 1.0, 0.05
    by_itself = busy * ranks * shared
    own = _own_share(ranks, by_itself, shared, handing)
    rank_0 = by_itself + handing * (1 - own) + own * ranks * shared
    others = (1 - own) * ranks * shared / (ranks - 1)
    if own:
        assert rank_0 == pytest.approx(others)
    else:
        assert rank_0 >= others
    assert own <= 1 / ranks
    assert _own_share(ranks, 0.0, shared, 0.0) == pytest.approx(1 / ranks)


def test_what_is_sooner_done_than_handed_out_is_shared_nevertheless() -> None:
    assert _own_share(2, 0.0, 1.0, 5.0) == 0.5


def test_efficiency_falls_with_ranks_but_less_where_each_has_as_much_to_do() -> None:
    costs = costs_of([report(8192)])
    counts = (2, 16, 128, 1024)
    strong = [predict(costs, ranks, Cluster(), gather="shards").efficiency for ranks in counts]
    weak = [predict(costs, ranks, Cluster(), gather="shards", items=8192 * ranks).efficiency for ranks in counts]
    assert strong == sorted(strong, reverse=True)
    assert all(one < other <= 1.001 for one, other in zip(strong[1:], weak[1:], strict=True))


def test_messages_cost_what_loggp_says() -> None:
    network = Network(latency=5.0, bandwidth=0.5, overhead=1.0)
    assert network.message(10) == 1 + 20 + 5 + 1
    assert network.exchange(1, 100) == 0
    assert network.exchange(3, 0) - network.exchange(2, 0) == 2 + 512 / 0.5
    steps = [round(network.agreement(ranks) / network.message(64)) for ranks in (1, 2, 3, 4, 5, 2048)]
    assert steps == [0, 2, 4, 4, 6, 22]


def test_memory_of_two_runs_tells_what_grows() -> None:
    assert costs_of([report(512), report(1024)]).memory == pytest.approx(2000)
    assert costs_of([report(512)]).memory == pytest.approx(2000 + 10_000_000 / 512)


def test_reports_that_tell_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="no report"):
        costs_of([])
    with pytest.raises(ValueError, match="no rows"):
        costs_of([Report([OperatorReport("load", "documents")])])
    with pytest.raises(ValueError, match="different plans"):
        costs_of([report(), Report([OperatorReport("load", "documents", rows=1)])])
    costs = costs_of([report()])
    for wrong in (
        {"ranks": 0, "cluster": Cluster()},
        {"ranks": 1, "cluster": Cluster(), "items": 0},
        {"ranks": 1, "cluster": Cluster(cores=0)},
        {"ranks": 1, "cluster": Cluster(max_concurrency=0)},
        {"ranks": 1, "cluster": Cluster(), "gather": "all"},
    ):
        with pytest.raises(ValueError, match="must be"):
            predict(costs, **wrong)  # type: ignore[arg-type]


# -- the command -----------------------------------------------------------------------------------------


def plan(*arguments: str) -> tuple[int, str]:
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["plan", *arguments])
    return done.exit_code, done.output


def test_the_command_prints_what_is_predicted_and_what_is_assumed(tmp_path: Path) -> None:
    paths = [tmp_path / "one.json", tmp_path / "two.json"]
    for path, batch in zip(paths, (64, 16), strict=True):
        path.write_text(report(batch=batch).to_json())
    status, said = plan(str(paths[0]), "--ranks", "2,4,...,2048", "--items", "1000000")
    assert status == 0, said
    rows = [line for line in said.splitlines() if " 1000000 " in line]
    assert [line.split()[0] for line in rows] == [f"{2**power:,}" for power in range(1, 12)]
    assert "predicted, not measured" in said
    assert "alpha is within beta" in said
    status, said = plan(*map(str, paths), "--ranks", "1,3,5,...,9", "--weak", "--gather", "root", "--batch", "256")
    assert status == 0, said
    assert "20.00 ms" in said
    assert "alpha is within beta" not in said
    assert [line.split()[1] for line in said.splitlines() if line.rstrip().endswith("%")] == [
        f"{512 * ranks}" for ranks in (1, 3, 5, 7, 9)
    ]


@pytest.mark.parametrize("ranks", ["", "0", "a", "2,...", "...,4", "4,2,...,1", "2,2,...,8"])
def test_numbers_of_ranks_that_are_none_are_named(ranks: str, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(report().to_json())
    status, said = plan(str(path), "--ranks", ranks)
    assert status == 1
    assert f"--ranks {ranks}: numbers like" in said
