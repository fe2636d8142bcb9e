"""The benchmark harness: what it measures, what it refuses, and that the benchmarks run."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import readme
from benchmarks.corpus import Corpora, read_documents
from benchmarks.harness import (
    ROOT,
    Benchmark,
    BenchmarkError,
    Case,
    ResultsDifferError,
    Scale,
    load_benchmark,
    run_benchmark,
)
from benchmarks.ingestion import makespan
from benchmarks.measure import Work, alternate, measure, rotated
from benchmarks.results import CaseResult, ContenderResult, Measurement, Results, Role, Spread, verdict
from benchmarks.table import markdown, seconds
from tests.house.sorting_benchmark import SORTING, TOGETHER

MIB = 2**20


@pytest.fixture(scope="module")
def lines() -> list[str]:
    return []


@pytest.fixture(scope="module")
def results(lines: list[str]) -> Results:
    return run_benchmark(SORTING, repeats=2, only=["thousand"], report=lines.append)


# -- statistics ------------------------------------------------------------------------------------------


def test_a_spread_is_median_and_extremes() -> None:
    assert Spread.of([3.0, 1.0, 2.0, 10.0]) == Spread(2.5, 1.0, 10.0)
    with pytest.raises(ValueError, match="no values"):
        Spread.of([])


@pytest.mark.parametrize(
    ("ours", "other", "expected"),
    [
        (Spread(1.0, 0.9, 1.1), Spread(2.0, 1.8, 2.2), "faster"),
        (Spread(1.0, 0.9, 1.9), Spread(2.0, 1.8, 2.2), "no gain"),  # the ranges overlap
        (Spread(1.0, 0.99, 1.01), Spread(1.03, 1.02, 1.04), "no gain"),  # too little to notice
        (Spread(2.0, 1.8, 2.2), Spread(1.0, 0.9, 1.1), "slower"),
        (Spread(2.0, 1.0, 2.2), Spread(1.0, 0.9, 1.1), "no gain"),
    ],
)
def test_a_verdict_needs_ranges_apart_and_a_noticeable_difference(ours: Spread, other: Spread, expected: str) -> None:
    assert verdict(ours, other) == expected


def test_each_contender_comes_first_as_often_as_any() -> None:
    orders = [rotated("abc", repeat) for repeat in range(6)]
    assert [order[0] for order in orders] == list("abcabc")
    assert all(sorted(order) == list("abc") for order in orders)


@given(st.lists(st.floats(0, 100), max_size=40), st.integers(1, 20))
def test_a_makespan_is_between_its_bounds(durations: list[float], slots: int) -> None:
    total, longest = sum(durations), max(durations, default=0.0)
    found = makespan(durations, slots)
    assert max(total / slots, longest) <= found * (1 + 1e-9) + 1e-9
    assert found <= total / slots + longest + 1e-9


def test_whole_requests_take_whole_waves() -> None:
    assert makespan([1.5] * 17, 16) == 3.0
    assert makespan([1.5] * 16, 16) == 1.5


# -- the protocol ----------------------------------------------------------------------------------------


def test_every_run_has_a_process_of_its_own(results: Results) -> None:
    processes = [
        run.facts["process"]
        for contender in results.cases[0].contenders
        if contender.role != "part"
        for run in contender.runs
    ]
    assert len(processes) == len(set(processes)) == 6
    assert os.getpid() not in processes


def test_the_order_rotates(results: Results, lines: list[str]) -> None:
    names = [line.split(" · ")[1] for line in lines]
    first = ["sorted", "with ballast", "asleep", "nothing to compare"]
    assert names == [*first, *first[1:], first[0]]
    assert results.repeats == 2


def test_waiting_is_wall_time_and_not_cpu_time(results: Results) -> None:
    asleep = results.cases[0].named("asleep")
    assert asleep is not None
    assert asleep.spread("wall").low >= 0.2
    assert asleep.spread("cpu").high < 0.1


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak can't be reset here")
def test_extra_peak_memory_is_that_of_the_call(results: Results) -> None:
    (case,) = results.cases
    plain, ballast = case.default.peak_extra, case.contenders[1].peak_extra
    assert plain is not None
    assert ballast is not None
    assert plain.high < 8 * MIB
    assert 60 * MIB < ballast.low <= ballast.high < 80 * MIB


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak can't be reset here")
def test_memory_used_and_freed_before_the_call_is_not_counted() -> None:
    script = (
        "from benchmarks.measure import Work, measure\n"
        "warm_up = lambda: len(bytearray(200 << 20))\n"
        "print(measure(Work(run=lambda _: len(bytearray(32 << 20)), warm_up=warm_up)).peak_extra)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert 30 * MIB < int(done.stdout) < 48 * MIB


def test_preparations_are_not_timed() -> None:
    def slow(value: Any = None) -> Any:
        time.sleep(0.15)
        return value

    measured = measure(
        Work(run=lambda state: state, warm_up=slow, before=lambda: slow(7), digest=lambda result: slow(str(result)))
    )
    assert measured.digest == "7"
    assert measured.wall < 0.1


def test_a_result_that_differs_fails_the_run() -> None:
    with pytest.raises(ResultsDifferError, match=r"one wrong: the result of 'unsorted' \(repeat 1\) is not that of"):
        run_benchmark(SORTING, repeats=1, only=["one wrong"])


def test_a_contender_that_fails_is_named_with_its_last_words() -> None:
    with pytest.raises(BenchmarkError, match=r"(?s)one fails: fails failed.*LookupError: no such order"):
        run_benchmark(SORTING, repeats=1, only=["one fails"])


def test_no_case_left_is_an_error() -> None:
    with pytest.raises(ValueError, match="no case of sorting has 'nowhere' in its name"):
        run_benchmark(SORTING, only=["nowhere"])


def test_calls_in_turn_share_a_process_and_count_with_their_median() -> None:
    calls: list[str] = []

    def contender(name: str, pauses: list[float]) -> Work:
        def run(_: None) -> str:
            calls.append(name)
            time.sleep(pauses.pop() if pauses else 0.0)
            return "same"

        return Work(run=run, digest=str)

    first, second = alternate([contender("a", [0.2, 0.2]), contender("b", [])], 7)
    assert "".join(calls[2:]) == "abbaabbaabbaab"
    assert first.wall < 0.1  # two slow calls of eight do not move a median
    assert first.digest == second.digest == "same"
    assert first.peak_extra is None


def test_contenders_in_turn_are_measured_in_one_process() -> None:
    (case,) = run_benchmark(TOGETHER, repeats=1).cases
    assert [contender.fact("calls") for contender in case.contenders] == [5.0, 5.0]
    assert [contender.name for contender in case.contenders] == ["sorted", "asleep"]


# -- corpus ----------------------------------------------------------------------------------------------


def test_a_corpus_is_whole_files_in_a_fixed_order_each_text_once(tmp_path: Path) -> None:
    source = tmp_path / "texts"
    source.mkdir()
    for name, text in {"b.md": "beta", "a.md": "alpha", "c.md": "beta", "d.py": "delta = 1", "e.bin": "no"}.items():
        (source / name).write_text(text)
    (source / "f.md").write_bytes(b"\xff\xfe not UTF-8")
    corpora = Corpora(tmp_path, source)
    prose = corpora.sample("prose", 1000)
    assert [(d.page_content, d.metadata) for d in read_documents(str(prose.path))] == [
        ("alpha", {"source": "a.md"}),
        ("beta", {"source": "b.md"}),
    ]
    assert prose.size == 9
    assert corpora.sample("prose", 5).files == 1
    assert corpora.sample("all", 1000).files == 3
    again = Corpora(tmp_path, source).sample("prose", 1000)
    assert again.checksum == prose.checksum
    assert corpora.sample("prose", 5).checksum != prose.checksum
    (source / "d.py").unlink()
    with pytest.raises(ValueError, match="no text of kind 'python'"):
        Corpora(tmp_path, source).sample("python", 1000)


# -- what is written -------------------------------------------------------------------------------------


def test_results_come_back_from_json_as_they_were(results: Results, tmp_path: Path) -> None:
    results.write(tmp_path / "sorting.json")
    assert Results.read(tmp_path / "sorting.json") == results


def test_a_table_names_who_is_slower_and_what_is_only_a_part(results: Results) -> None:
    text = markdown(results, SORTING)
    assert re.search(r"\| asleep \| .* \| slower than sorted \|", text)
    assert re.search(r"\| nothing to compare \| .* \| a part, for comparison \|", text)
    assert "PARTIAL RUN" in text
    assert "QUICK RUN" not in text
    assert "QUICK RUN" in markdown(dataclasses.replace(results, quick=True), SORTING)


def test_no_gain_is_said_to_be_none(results: Results) -> None:
    same = tuple(Measurement(wall=wall, cpu=wall, digest="x") for wall in (1.0, 1.1))
    case = CaseResult(
        "equal", {}, None, "x", (ContenderResult("native", "native", same), ContenderResult("ours", "ours", same))
    )
    text = markdown(dataclasses.replace(results, cases=(case,)), SORTING)
    assert "| ours | 1.05 s (1.00 to 1.10) | 1.05 s (1.00 to 1.10) | - | 1.00x | no gain over native |" in text
    assert "| equal | 1.05 s | 1.05 s (native) | ours | 1.05 s | 1.00x | 1.00x | - | no gain |" in text


def test_a_case_of_ours_alone_is_compared_with_nothing(results: Results) -> None:
    alone = ContenderResult("ours", "ours", (Measurement(wall=1.0, cpu=1.0, digest="x"),))
    case = CaseResult("weak", {}, None, "x", (alone,))
    text = markdown(dataclasses.replace(results, cases=(case,)), SORTING)
    assert "| ours | 1.00 s (1.00 to 1.00) | 1.00 s (1.00 to 1.00) | - |  |  |" in text
    assert "| weak |" not in text


def test_ours_is_compared_with_the_best_native_or_the_one_given_the_same(results: Results) -> None:
    def contender(name: str, role: Role, wall: float, against: str = "") -> ContenderResult:
        return ContenderResult(name, role, (Measurement(wall, wall, digest="x"),), against)

    free = contender("free", "ours", 1.5)
    bound = contender("bound", "ours", 1.5, against="default")
    contenders = (contender("default", "native", 2.0), contender("by hand", "native", 1.0), free, bound)
    case = CaseResult("inputs", {}, None, "x", contenders)
    assert case.rival(free, "wall").name == "by hand"
    assert case.rival(bound, "wall").name == "default"
    text = markdown(dataclasses.replace(results, cases=(case,)), SORTING)
    assert "| 1.33x | slower than by hand |" in text
    assert "| 1.33x | faster than default |" in text


def test_a_busy_machine_is_named_as_one(results: Results) -> None:
    busy = dataclasses.replace(results, machine={**results.machine, "load_before": 1.5, "cores": 2})
    quiet = dataclasses.replace(results, machine={**results.machine, "load_before": 0.1, "cores": 2})
    assert "BUSY MACHINE" in markdown(busy, SORTING)
    assert "BUSY MACHINE" not in markdown(quiet, SORTING)


@pytest.mark.parametrize(
    ("value", "text"),
    [(12.345, "12.3 s"), (1.0, "1.00 s"), (0.12, "120 ms"), (0.0123, "12.3 ms"), (3.21e-6, "3.21 µs")],
)
def test_times_are_shown_in_the_unit_that_suits_them(value: float, text: str) -> None:
    assert seconds(value) == text


def test_a_plot_is_drawn(results: Results, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from benchmarks.plot import draw

    draw(results, tmp_path / "sorting.png")
    assert (tmp_path / "sorting.png").read_bytes().startswith(b"\x89PNG")


def test_quick_results_do_not_go_into_the_readme(results: Results, tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text("before\n<!-- results: sorting -->\nold \\1\n<!-- end of results -->\nafter\n")
    assert readme.fill(page, tmp_path, [SORTING]) == []
    dataclasses.replace(results, quick=True).write(tmp_path / "sorting.json")
    with pytest.raises(ValueError, match="of a quick run"):
        readme.fill(page, tmp_path, [SORTING])
    assert "old" in page.read_text()
    dataclasses.replace(results, partial=False, title=r"Sorting \1 \d").write(tmp_path / "sorting.json")
    assert readme.fill(page, tmp_path, [SORTING]) == ["sorting"]
    filled = page.read_text()
    assert filled.startswith("before\n<!-- results: sorting -->\n")
    assert filled.endswith("<!-- end of results -->\nafter\n")
    assert r"### Sorting \1 \d (`python -m benchmarks sorting`)" in filled
    assert "old" not in filled
    page.write_text("no place")
    with pytest.raises(ValueError, match="no place for sorting"):
        readme.fill(page, tmp_path, [SORTING])


def test_the_readme_has_a_place_for_every_benchmark() -> None:
    from benchmarks.__main__ import HOMES

    text = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    names = [load_benchmark(home).name for home in HOMES]
    assert re.findall(r"<!-- results: (\S+) -->", text) == names


# -- the benchmarks themselves ---------------------------------------------------------------------------


def _python_m_benchmarks(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_a_quick_run_from_the_command_line(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    done = _python_m_benchmarks("tiny", "--quick", "--only", "FAISS.add_documents, 1 ", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "QUICK RUN" in done.stdout
    results = Results.read(tmp_path / "tiny.json")
    assert results.quick
    assert [contender.name for contender in results.cases[0].contenders] == ["native", "ours"]
    assert all(len(contender.runs) == 2 for contender in results.cases[0].contenders)
    assert results.cases[0].digest
    assert results.versions["faiss-cpu"] != "-"
    assert "One document, and ten" in (tmp_path / "tiny.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_failure_is_one_line_and_a_status(tmp_path: Path) -> None:
    done = _python_m_benchmarks("tiny", "--quick", "--only", "no such case", "--out", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith("ValueError: no case of tiny has 'no such case' in its name")
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Corpora:
    return Corpora(tmp_path_factory.mktemp("corpora"))


def _agree(benchmark: Benchmark, cases: Sequence[Case]) -> None:
    """What a run asks of results, but in this process: most of a quick run's time goes by starting others."""
    assert cases
    for case in cases:
        digests = {}
        with benchmark.service(case) as shared:
            for name in case.contenders:
                contender = benchmark.contender(name)
                run = measure(contender.prepare({**case.parameters, **shared}))
                if contender.role != "part":
                    digests[name] = run.digest
        assert len(set(digests.values())) == 1, (case.name, digests)
        assert all(digests.values())
        assert "ours" in {benchmark.contender(name).role for name in digests}


#: Beyond what CI has time for: `make test-at-length`.
LONG = pytest.mark.at_length


@pytest.mark.slow
@pytest.mark.parametrize(
    ("home", "only"),
    [
        pytest.param("ingestion:LOCAL", "", marks=LONG),
        ("splitting:BENCHMARK", "by tokens"),
        ("splitting:BENCHMARK", "MarkdownHeader, prose"),
        ("node_parsers:BENCHMARK", "Markdown, prose"),
        ("upsert:BENCHMARK", "in 20 batches"),
        ("tiny:BENCHMARK", "OpenAIEmbeddings.embed_documents, 10"),
        pytest.param("llama_ingestion:LOCAL", "", marks=LONG),
        ("llama_index_building:BENCHMARK", ""),
    ],
)
def test_every_benchmark_without_a_client_has_identical_results(home: str, only: str, corpora: Corpora) -> None:
    needed = {
        "ingestion:LOCAL": ("faiss", "wordllama"),
        "llama_ingestion:LOCAL": ("wordllama",),
        "llama_index_building:BENCHMARK": (),
    }
    for package in needed.get(home, ("faiss",)):
        pytest.importorskip(package)
    benchmark = load_benchmark(f"benchmarks.{home}")
    _agree(benchmark, [case for case in benchmark.cases(Scale(True, corpora)) if only in case.name])


@LONG
def test_every_job_of_vector_stores_has_identical_results(corpora: Corpora) -> None:
    pytest.importorskip("llama_index.vector_stores.faiss")
    benchmark = load_benchmark("benchmarks.llama_index_stores:BENCHMARK")
    cases = benchmark.cases(Scale(False, corpora))
    _agree(benchmark, [dataclasses.replace(case, parameters={**case.parameters, "rows": 200}) for case in cases])


@LONG
@pytest.mark.parametrize(
    ("name", "only"),
    [
        ("ingest-openai", ""),
        ("single-calls", ""),
        ("rag", "64 at once, 500"),
        ("two-llm-steps", ""),
        ("agents", "1 agent"),
        ("llama-ingest-openai", ""),
        ("llama-extract", ""),
        ("llama-queries", "simple"),
        ("shuffle", "text"),
        ("scaling", ""),
        ("scaling-text", ""),
    ],
)
def test_every_benchmark_in_processes_runs(name: str, only: str, tmp_path: Path) -> None:
    """With identical results. A process for each contender: clients keep connections of an event loop that is gone.

    Ranks are processes in any case.
    """
    needed = {
        "llama-ingest-openai": ("llama_index.embeddings.openai",),
        "agents": ("faiss", "langgraph"),
        "llama-extract": ("openai",),
        "llama-queries": ("faiss", "llama_index.embeddings.openai"),
        "shuffle": ("mpi4py",),
        "scaling": ("mpi4py", "faiss", "distributed"),
        "scaling-text": ("mpi4py", "wordllama", "ray"),
    }
    for package in needed.get(name, ("faiss",)):
        pytest.importorskip(package)
    done = _python_m_benchmarks(name, "--quick", "--repeats", "1", "--only", only, "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    *_, case = Results.read(tmp_path / f"{name}.json").cases
    assert case.digest
    assert case.of_role("ours")
