"""`python -m benchmarks NAME`: run benchmarks, write JSON, Markdown and a plot of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks import readme as readme_file
from benchmarks.harness import Benchmark, BenchmarkError, load_benchmark, run_benchmark
from benchmarks.results import Results
from benchmarks.table import markdown, show

#: Where each benchmark is, in the order in which `all` runs them.
HOMES = (
    "benchmarks.ingestion:LOCAL",
    "benchmarks.ingestion:HOSTED",
    "benchmarks.splitting:BENCHMARK",
    "benchmarks.node_parsers:BENCHMARK",
    "benchmarks.upsert:BENCHMARK",
    "benchmarks.tiny:BENCHMARK",
    "benchmarks.single_calls:BENCHMARK",
    "benchmarks.rag:BENCHMARK",
    "benchmarks.two_llm_steps:BENCHMARK",
    "benchmarks.agents:BENCHMARK",
    "benchmarks.llama_ingestion:LOCAL",
    "benchmarks.llama_ingestion:HOSTED",
    "benchmarks.llama_extraction:BENCHMARK",
    "benchmarks.llama_index_building:BENCHMARK",
    "benchmarks.llama_index_stores:BENCHMARK",
    "benchmarks.llama_queries:BENCHMARK",
    "benchmarks.shuffle:BENCHMARK",
    "benchmarks.scaling:BENCHMARK",
    "benchmarks.scaling_text:BENCHMARK",
)

_HERE = Path(__file__).resolve().parent
_RESULTS = _HERE / "results"

app = typer.Typer(
    help="Measure LangChain and LlamaIndex against the same objects accelerated, results identical or no number.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_console = Console()
if not _console.is_terminal:
    _console = Console(width=200)  # into a file or a pipe: tables are not to be folded

Quick = Annotated[bool, typer.Option("--quick", help="A smoke test on small inputs; no numbers to quote.")]
Repeats = Annotated[
    int | None, typer.Option("--repeats", min=1, help="Processes a contender and case (5; 2 with --quick).")
]
Out = Annotated[Path, typer.Option("--out", help="Folder for the results.", show_default=False)]
Corpus = Annotated[
    Path | None,
    typer.Option(
        "--corpus", exists=True, file_okay=False, help="Folder of text; else what the Python library carries."
    ),
]
Only = Annotated[list[str] | None, typer.Option("--only", help="Run the cases whose name contains this; repeatable.")]


def run_and_write(
    benchmark: Benchmark, out: Path, *, quick: bool, repeats: int | None, corpus: Path | None, only: Sequence[str] = ()
) -> Results:
    """Run one benchmark and write NAME.json, NAME.md and, where matplotlib is installed, NAME.png."""
    report: Callable[[str], object] = lambda line: _console.print(line, style="dim", markup=False, highlight=False)  # noqa: E731
    results = run_benchmark(benchmark, quick=quick, repeats=repeats, folder=corpus, only=only, report=report)
    out.mkdir(parents=True, exist_ok=True)
    results.write(out / f"{benchmark.name}.json")
    (out / f"{benchmark.name}.md").write_text(markdown(results, benchmark), encoding="utf-8")
    if find_spec("matplotlib"):
        from benchmarks.plot import draw

        draw(results, out / f"{benchmark.name}.png")
    else:
        _console.print("no plot: matplotlib is not installed (pip install 'aaflow-plugins[bench]')")
    show(results, benchmark, _console)
    return results


def _add_command(home: str) -> None:
    benchmark = load_benchmark(home)

    @app.command(benchmark.name, help=f"{benchmark.title}.")
    def command(
        quick: Quick = False,
        repeats: Repeats = None,
        out: Out = _RESULTS,
        corpus: Corpus = None,
        only: Only = None,
    ) -> None:
        run_and_write(benchmark, out, quick=quick, repeats=repeats, corpus=corpus, only=only or ())


for _home in HOMES:
    _add_command(_home)


@app.command("all", help="Every benchmark, one after the other.")
def run_all(quick: Quick = False, repeats: Repeats = None, out: Out = _RESULTS, corpus: Corpus = None) -> None:
    for home in HOMES:
        run_and_write(load_benchmark(home), out, quick=quick, repeats=repeats, corpus=corpus)


@app.command("readme", help="Put the results of full runs into benchmarks/README.md.")
def fill_readme(out: Out = _RESULTS) -> None:
    filled = readme_file.fill(_HERE / "README.md", out, map(load_benchmark, HOMES))
    _console.print(f"filled in: {', '.join(filled) or 'nothing; run a benchmark first'}")


def main() -> None:
    """Run the command line; a failed benchmark ends it with status 1 and its reason."""
    try:
        app()
    except (BenchmarkError, ValueError) as error:
        Console(stderr=True).print(f"{type(error).__name__}: {error}", style="bold red", markup=False, highlight=False)
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()
