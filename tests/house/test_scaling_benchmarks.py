"""The scaling benchmarks' contenders do the same work, and their notes say what was measured and what is predicted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.corpus import Corpora
from benchmarks.harness import Benchmark, Scale, load_benchmark
from benchmarks.measure import measure
from benchmarks.results import CaseResult, ContenderResult, Measurement, Role

pytest.importorskip("faiss")
pytest.importorskip("langchain_community")


@pytest.fixture(scope="module")
def benchmark_() -> Benchmark:
    return load_benchmark("benchmarks.scaling:BENCHMARK")


@pytest.fixture(scope="module")
def given(benchmark_: Benchmark, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("texts")
    for number in range(40):
        text = "\n\n".join(f"Paragraph {line} of {number}: {'some words ' * (line % 40)}" for line in range(200))
        (folder / f"{number}.txt").write_text(text)
    case = benchmark_.cases(Scale(True, Corpora(tmp_path_factory.mktemp("corpus"), folder)))[0]
    quick = {**case.parameters, "files": 12, "request_ms": 0.0, "item_ms": 0.0}
    with benchmark_.service(type(case)(case.name, quick, case.contenders)) as made:
        yield {**quick, **made}


def _digest(benchmark_: Benchmark, given: dict[str, Any], name: str) -> str | None:
    run = measure(benchmark_.contender(name).prepare(given))
    assert run.facts["rows"] >= 24
    return run.digest


def test_native_and_ours_store_the_same_rows(benchmark_: Benchmark, given: dict[str, Any]) -> None:
    names = ("native, one process", "ours (shards), 1 rank", "ours in step, 1 rank")
    assert len({_digest(benchmark_, given, name) for name in names}) == 1


def test_a_row_that_differs_shows(given: dict[str, Any]) -> None:
    from benchmarks.scaling import native
    from benchmarks.scaling_shape import digest

    whole = digest(native(given["paths"], given))
    assert digest(native(given["paths"][:-1], given)) != whole
    path = Path(given["paths"][0])
    text = path.read_text()
    path.write_text(text.replace("words", "vords", 1))
    assert digest(native(given["paths"], given)) != whole
    path.write_text(text)
    assert digest(native(given["paths"], given)) == whole


@pytest.mark.at_length
@pytest.mark.parametrize("name", ["Ray Data, 2 actors", "Ray, actors at hand, 2"])
def test_ray_stores_the_same_rows(benchmark_: Benchmark, given: dict[str, Any], name: str) -> None:
    ray = pytest.importorskip("ray")
    expected = _digest(benchmark_, given, "native, one process")
    try:
        assert _digest(benchmark_, given, name) == expected
    finally:
        ray.shutdown()


@pytest.fixture(autouse=True)
def _two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)


# -- notes -----------------------------------------------------------------------------------------------


def _case(workers: int, contenders: dict[str, tuple[Role, float, dict[str, float]]], **own: Any) -> CaseResult:
    shape = {"files": 256, "chunks_a_file": 4, "dimension": 128, "request_ms": 20.0, "item_ms": 1.5, "batch": 64}
    results = tuple(
        ContenderResult(
            name, role, (Measurement(wall, 0.2, None, "x", {"rows": 1024.0, "largest_peak": 1.0, **facts}),)
        )
        for name, (role, wall, facts) in contenders.items()
    )
    return CaseResult(f"{workers}", {**shape, "workers": workers, **own}, None, "x", results)


def _stages(workers: int, exchange: float = 0.0) -> dict[str, float]:
    seconds = {"load": 0.04, "split": 0.2, "embed": 16 * 0.116, "upsert": 0.16}
    return {**{name: value / workers for name, value in seconds.items()}, "exchange": exchange}


def test_notes_say_what_was_measured_and_what_is_predicted(benchmark_: Benchmark) -> None:
    alone = _case(1, {"ours (shards), 1 rank": ("ours", 2.256, _stages(1)), "Dask, 1 worker": ("native", 3.0, {})})
    # One batch of each rank's is embedded before its run, while others wait for those that two ranks have texts of.
    stages = {**_stages(2, 0.14), "embed": 7 * 0.116}
    both = _case(
        2,
        {
            "ours (shards), 2 ranks": ("ours", 1.128 + 0.024, stages),
            "ours (root), 2 ranks": ("ours", 1.6, {}),
            "Dask, 2 workers": ("native", 2.0, {}),
        },
    )
    (first,) = benchmark_.notes(alone, [alone, both])
    assert first.startswith("ours (shards), 1 rank, of that, on the slowest worker: load 40.0 ms; split 200.0 ms;")
    times, gains, shards, root = benchmark_.notes(both, [alone, both])
    assert "exchange 140.0 ms" in times
    assert gains.endswith("ours (shards), 2 ranks 98%, ours (root), 2 ranks 70%, Dask, 2 workers 75%.")
    assert shards.startswith(
        "ours (shards), 2 ranks, PREDICTED from one rank: load 0.020 s (measured 0.020), split 0.1"
    )
    assert "embed 0.812 s (measured 0.812, +0%)" in shards
    assert root.startswith("ours (root), 2 ranks, PREDICTED from one rank: total")


def test_the_published_curve_stands_beside_a_prediction(benchmark_: Benchmark) -> None:
    alone = _case(1, {"ours (shards), 1 rank": ("ours", 2.256, _stages(1))}, item_ms=0.0)
    _, beside = benchmark_.notes(alone, [alone])
    assert beside.startswith("PREDICTED from this run, not measured, for the paper's 100 million chunks")
    assert "(the paper: 30.9 s)" in beside
    assert "(the paper: 2.09 s)" in beside


def test_notes_of_text_say_so_of_each_number_of_ranks() -> None:
    benchmark = load_benchmark("benchmarks.scaling_text:BENCHMARK")
    walls = {"ours, 1 rank": 3.0, "the parser alone, ours, 1 rank": 2.0}
    walls |= {f"{name}, one text of 5": wall / 5 for name, wall in walls.items()}
    for workers in (2, 4):
        walls[f"ours (root), {workers} ranks"] = 2.0
        walls[f"ours (shards), {workers} ranks"] = 3.0 / workers
        walls[f"the parser alone, ours (shards), {workers} ranks"] = 2.0 / workers
    fewer = {"rows": 1024 / 5}
    results = {name: ("ours", wall, fewer if name.endswith("5") else {}) for name, wall in walls.items()}
    case = _case(0, results, corpus_files=100)
    nodes, cores, *lines, memory = benchmark.notes(case, [case])
    assert (nodes, cores) == ("1,024 nodes.", "On 1 rank ours has 1.00 cores at work while it embeds.")
    assert [line.split(", PREDICTED")[0] for line in lines if "PREDICTED" in line] == [
        f"ours ({gather}), {workers} ranks" for workers in (2, 4) for gather in ("shards", "root")
    ]
    assert "split 1.000 s (measured 1.000, +0%)" in lines[1]
    assert "100%, 2.00x" in lines[0]
    assert "ours (shards), 4 ranks 0 MiB" in memory


def test_notes_of_text_compare_nodes_a_worker_where_all_have_as_many() -> None:
    benchmark = load_benchmark("benchmarks.scaling_text:BENCHMARK")
    alone, both = (
        _case(
            workers,
            {f"{'native' if workers == 1 else 'Ray'}": ("native", 4.0, {}), ours: ("ours", wall, {"rows": rows})},
            in_flight=16 * workers,
        )
        for workers, ours, wall, rows in ((1, "ours, 1 rank", 1.0, 1000.0), (2, "ours (shards), 2 ranks", 1.25, 2200.0))
    )
    other = _case(1, {"ours, 1 rank": ("ours", 9.0, {"rows": 1000.0})}, in_flight=0)
    first, *_ = benchmark.notes(alone, [other, alone, both])
    assert first == "1,000 nodes."
    nodes, gains, _ = benchmark.notes(both, [other, alone, both])
    assert nodes == "2,200 nodes."
    assert gains.endswith("against ours, 1 rank: Ray 13%, ours (shards), 2 ranks 88%.")


def test_notes_of_text_without_parts_predict_nothing() -> None:
    benchmark = load_benchmark("benchmarks.scaling_text:BENCHMARK")
    walls = {"native `arun`": 4.0, "ours, 1 rank": 2.0, "ours (shards), 2 ranks": 1.0, "ours (root), 2 ranks": 2.0}
    case = _case(0, {name: ("ours", wall, {}) for name, wall in walls.items()}, in_flight=16)
    _, gains, _ = benchmark.notes(case, [case])
    assert gains == "Parallel efficiency and gain against ours on 1 rank: ours (shards), 2 ranks 100%, 2.00x; " + (
        "ours (root), 2 ranks 50%, 1.00x."
    )
