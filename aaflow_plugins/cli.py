"""The command `aaflow`: demo, compare, explain, plan, doctor, launch."""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import EntryPoint, PackageNotFoundError, version
from math import isfinite
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from aaflow_plugins import corpus, plugins
from aaflow_plugins.comparison import Comparison, Outcome, compare, summary
from aaflow_plugins.demonstration import Demo
from aaflow_plugins.engines.launching import launch_command, rank_environment
from aaflow_plugins.prediction import Cluster, Network, costs_of, predict
from aaflow_plugins.prediction_tables import assumptions, costs_table, predictions_table
from aaflow_plugins.report import Report

app = typer.Typer(
    help="Runs LangChain and LlamaIndex pipelines faster with identical results.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console()
progress_console = Console(stderr=True)

#: Characters the demo takes from the installed Python's library; about 20 s of native work on one core.
DEMO_CHARACTERS = 6_000_000

ObjectArgument = Annotated[str, typer.Argument(help="What to look at, as module:object; a function is called.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


class UserError(Exception):
    """Something the user can mend; shown as one line."""


@app.command()
def demo(
    corpus_folder: Annotated[
        Path | None, typer.Option("--corpus", help="Folder of text files. Default: the installed Python's library.")
    ] = None,
    framework: Annotated[str, typer.Option(help="Whose demo to run: langchain, llama-index or both.")] = "both",
    repeats: Annotated[int, typer.Option(help="Runs of each contender, in turns.")] = 3,
    debug: DebugOption = False,
) -> None:
    """Send real text through a framework natively and accelerated; compare results and times; ask a question."""
    with _errors(debug):
        chosen = _adapters(framework)
        documents = _documents(_read(corpus_folder))
        outcomes: list[Outcome] = []
        for entry in chosen:
            name = entry.name.replace("_", "-")
            try:
                shown = plugins.hook_of(entry, "aaflow_demo")(documents=documents)
            except ImportError as error:
                missing = f"{name}: {error}: pip install 'aaflow-plugins[demo]'"
                if len(chosen) == 1:
                    raise UserError(missing) from error
                _plain(f"left out: {missing}")
                continue
            if shown is not None:
                console.rule(name)
                outcomes += _demonstrated(shown, repeats)
        if not outcomes:
            raise UserError(f"--framework {framework}: there is no demo that can run here")
        _exit_if_different(outcomes)


def _demonstrated(shown: Demo, repeats: int) -> list[Outcome]:
    outcomes = [_measured(part, repeats) for part in shown.parts]
    console.print(summary(outcomes))
    last = outcomes[-1].accelerated.last
    assert last
    if last.report:
        console.print(last.report.table())
    question = "How do I read a file line by line?"
    source, passage = shown.answer(last.result, question)
    console.print(f"[bold]{question}[/bold]\nThe nearest passage is in {source}:", highlight=False, soft_wrap=True)
    _plain(passage.strip()[:400])
    return outcomes


@app.command(name="compare")
def compare_command(
    target: ObjectArgument,
    documents: Annotated[Path, typer.Option("--documents", help="Folder of text files to run it on.")],
    repeats: Annotated[int, typer.Option(help="Runs of each contender, in turns.")] = 3,
    debug: DebugOption = False,
) -> None:
    """Run your own objects natively and accelerated: LangChain's splitter, embeddings, vector store (one or several),
    or LlamaIndex's node parser, embedding model, pipeline, VectorStoreIndex, query engine or retriever."""
    with _errors(debug):
        make = _maker(target)
        texts = _read(documents)
        first = make()
        hooks = _hooks_for(first)
        compared = hooks.aaflow_comparison(make=make, documents=_documents(texts))
        if compared is None:
            raise UserError(
                f"{target}: nothing here to compare: {_kinds_of(first)}; `aaflow compare --help` says what can be, "
                "and `aaflow explain` shows what a chain would run as"
            )
        outcome = _measured(compared, repeats)
        console.print(outcome.table())
        for note in compared.notes:
            _plain(f"note: {note}")
        _exit_if_different([outcome])
        if outcome.failure is not None:
            raise UserError(f"{target}: {outcome.verdict()}; there is nothing to compare")


@app.command()
def explain(target: ObjectArgument, debug: DebugOption = False) -> None:
    """Show the plan your objects would run as: operators, schemas, schedule, and what runs natively and why."""
    from aaflow_plugins.executor import Executor

    with _errors(debug):
        obj = _maker(target)()
        plan = _hooks_for(obj).aaflow_plan(obj=obj)
        if plan is None:
            raise UserError(f"{target}: nothing here to plan: {_kinds_of(obj)}; name what `accelerate` takes")
        schedule = None if plan.by_item else Executor().schedule(plan)
        console.print(plan.explain(schedule), highlight=False, markup=False, emoji=False, soft_wrap=True)


@app.command(name="plan")
def plan_command(
    reports: Annotated[
        list[Path], typer.Argument(help="What `executor.report.to_json()` said of runs in one process.")
    ],
    ranks: Annotated[str, typer.Option(help="How many ranks; 2,4,...,2048 goes on as it begins.")] = "1,2,4,8",
    items: Annotated[int | None, typer.Option(min=1, help="Documents. Default: as many as were measured.")] = None,
    weak: Annotated[bool, typer.Option("--weak", help="So many documents on each rank, not in all.")] = False,
    gather: Annotated[str, typer.Option(help="root: rank 0 leads. shards: each rank works and stores by itself.")] = (
        "shards"
    ),
    batch: Annotated[int | None, typer.Option(min=1, help="Items a request. Default: as measured.")] = None,
    cores: Annotated[float, typer.Option(help="Cores of a node.")] = float(os.cpu_count() or 1),
    ranks_a_node: Annotated[int | None, typer.Option(min=1, help="Ranks of a node. Default: one a core.")] = None,
    max_concurrency: Annotated[
        int | None, typer.Option(help="Model calls answered at once, for all. Default: as measured, on each rank.")
    ] = None,
    latency: Annotated[float, typer.Option(help="Microseconds of a message on its way.")] = Network.latency * 1e6,
    bandwidth: Annotated[float, typer.Option(help="Gbit/s between nodes.")] = Network.bandwidth * 8e-9,
    overhead: Annotated[float, typer.Option(help="Microseconds a message costs each side.")] = Network.overhead * 1e6,
    debug: DebugOption = False,
) -> None:
    """Predict, from runs measured in one process, times, memory and efficiency on many ranks before anything runs."""
    with _errors(debug):
        measured = list(map(_report, reports))
        network = Network(latency * 1e-6, bandwidth * 1.25e8, overhead * 1e-6)
        on_each = ranks_a_node or (max(1, int(cores)) if isfinite(cores) else 1)
        cluster = Cluster(cores, on_each, max_concurrency, network)
        costs = costs_of(measured, batch)
        predictions = [
            predict(costs, each, cluster, items=(items or costs.items) * (each if weak else 1), gather=gather)
            for each in _counts(ranks)
        ]
        console.print(costs_table(costs))
        console.print(predictions_table(costs, predictions, gather))
        _plain(assumptions(costs, cluster))


@app.command()
def doctor(debug: DebugOption = False) -> None:
    """Show versions found, plug-ins and fast paths, what is missing, and the command that installs it."""
    with _errors(debug):
        versions = Table(title="versions")
        versions.add_column("package")
        versions.add_column("version")
        versions.add_row("python", sys.version.split()[0])
        for package in _PACKAGES:
            versions.add_row(package, _version(package))
        console.print(versions)
        paths = Table(title="plug-ins and fast paths")
        for column in ("plug-in", "kind", "name", "state"):
            paths.add_column(column)
        kinds = [
            *((entry, "adapter") for entry in plugins.installed()),
            *((each, "engines") for each in plugins.engines()),
        ]
        for entry, kind in kinds:
            try:
                capabilities = plugins.hook_of(entry, "aaflow_capabilities")
            except ImportError as error:
                remedy = f"pip install 'aaflow-plugins[{entry.name}]'"
                paths.add_row(entry.name, kind, entry.value, f"not usable: {error}; {remedy}")
                continue
            paths.add_row(entry.name, kind, entry.value, "ready")
            for rows in capabilities():
                for row in rows:
                    paths.add_row("", *row)
        console.print(paths)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False}
)
def launch(
    context: typer.Context,
    ranks: Annotated[int, typer.Option("-n", "--ranks", min=1, help="Processes to start.")],
    script: Annotated[Path, typer.Argument(help="A Python script; what follows are its own arguments.")],
) -> None:
    """Start a script several times on this machine, as ranks of one job: `aaflow launch -n 4 index.py --its-option`.

    The launcher is the `mpirun` of this environment, or the first on the path.
    """
    with _errors(debug=False, hint=""):
        if not script.is_file():
            raise UserError(f"{script}: there is no such script; give its path, and `-n` before it")
        if ranks > (most := _RANKS_A_CORE * (os.cpu_count() or 1)):
            raise UserError(f"--ranks {ranks}: at most {most} on this machine, {_RANKS_A_CORE} a core")
        try:
            command = launch_command(ranks, [str(script), *context.args])
        except FileNotFoundError as error:
            raise UserError(str(error)) from error
        # The launcher takes this process's place, and with it Ctrl-C and the exit status.
        os.execve(command[0], command, rank_environment(ranks))


def main() -> None:
    """Entry point of the command `aaflow`."""
    app()


_PACKAGES = (
    "aaflow-plugins", "pyarrow", "numpy", "langchain-core", "langchain-text-splitters", "langchain-community",
    "langchain-openai", "llama-index-core", "faiss-cpu", "tiktoken", "splintr-rs", "wordllama",
)  # fmt: skip


#: More processes than that for a core are a mistake.
_RANKS_A_CORE = 64


class _errors:
    """Turn errors into one clear line and exit status 1; with --debug show them in full."""

    def __init__(self, debug: bool, hint: str = " (--debug shows more)") -> None:
        self._debug, self._hint = debug, hint

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if error is None or self._debug or not isinstance(error, Exception) or isinstance(error, typer.Exit):
            return
        text = str(error).strip().splitlines()
        told = text and isinstance(error, UserError | ValueError | TypeError)
        line = f"error: {': '.join(([] if told else [type(error).__name__]) + text[:1])}{self._hint}"
        progress_console.print(line, markup=False, emoji=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error


def _counts(text: str) -> list[int]:
    """Numbers of ranks from `2,4,...,2048`."""
    try:
        counts: list[int] = []
        words = text.split(",")
        for position, word in enumerate(words):
            if word.strip() != "...":
                counts.append(int(word))
                continue
            before, last, end = counts[-2], counts[-1], int(words[position + 1])
            if last <= before or before < 1 or end < last:
                raise ValueError
            grows = last % before == 0
            while (following := last * last // before if grows else 2 * last - before) < end:
                before, last = last, following
                counts.append(last)
        if min(counts) < 1:
            raise ValueError
    except (ValueError, IndexError):
        raise UserError(f"--ranks {text}: numbers like 1,2,4 or 2,4,...,2048") from None
    return counts


def _report(path: Path) -> Report:
    try:
        return Report.from_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file; write `executor.report.to_json()` of a run to it") from error
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error


def _plain(text: str) -> None:
    """Print as it is: nothing in it is markup, and no line is broken."""
    console.print(text, highlight=False, markup=False, emoji=False, soft_wrap=True)


def _read(folder: Path | None) -> corpus.Corpus:
    texts = corpus.read_python_library(DEMO_CHARACTERS) if folder is None else corpus.read_folder(folder)
    console.print(f"{len(texts.texts):,} files, {texts.characters / 1e6:.1f} million characters")
    for path, reason in texts.skipped[:5]:
        _plain(f"skipped {path}: {reason}")
    if len(texts.skipped) > 5:
        console.print(f"skipped {len(texts.skipped) - 5} more")
    return texts


def _documents(texts: corpus.Corpus) -> list[tuple[str, str]]:
    return [(str(text.path), text.content) for text in texts.texts]


def _measured(comparison: Comparison, repeats: int) -> Outcome:
    with progress_console.status(comparison.title) as status:
        return compare(comparison, repeats, lambda line: status.update(f"{comparison.title}: {line}"))


def _exit_if_different(outcomes: Sequence[Outcome]) -> None:
    if any(outcome.difference for outcome in outcomes):
        raise typer.Exit(2)


def _maker(target: str) -> Callable[[], Any]:
    """A function that gives the object(s) named by `module:object`."""
    module_name, _, path = target.partition(":")
    if not module_name or not path or module_name.startswith(".") or "/" in module_name or module_name.endswith(".py"):
        raise UserError(f"{target!r}: name it as module:object, a module that Python can import, no path")
    sys.path.insert(0, os.getcwd())
    try:
        found: Any = import_module(module_name)
    except ModuleNotFoundError as error:
        raise UserError(f"{target}: {error} (looked in this folder and in the installed packages)") from error
    except ImportError as error:
        raise UserError(f"{target}: ImportError: {error}") from error
    except SystemExit as error:
        raise UserError(f"{target}: importing {module_name} ends the program") from error
    for name in path.split("."):
        if not hasattr(found, name):
            raise UserError(f"{target}: {getattr(found, '__name__', found)!r} has no {name!r}")
        found = getattr(found, name)
    if isinstance(found, functools.partial | functools._lru_cache_wrapper) or inspect.isroutine(found):
        function: Callable[[], Any] = found
        return function
    return lambda: found


def _kinds_of(obj: Any) -> str:
    """What the user's object is, or what is in it."""
    if isinstance(obj, list | tuple | dict):
        parts = obj.values() if isinstance(obj, dict) else obj
        return f"it is a {type(obj).__name__} of {', '.join(type(part).__name__ for part in parts) or 'nothing'}"
    return f"it is the class {obj.__name__}" if isinstance(obj, type) else f"its class is {type(obj).__name__}"


def _hooks_for(obj: Any) -> Any:
    parts = obj.values() if isinstance(obj, dict) else obj if isinstance(obj, list | tuple) else [obj]
    hooks = plugins.plugin_manager().hook
    for part in parts:
        hooks = plugins.load_for(part)
    return hooks


def _adapters(framework: str) -> list[EntryPoint]:
    """The plug-ins whose demos are asked for."""
    found = plugins.installed()
    if framework != "both":
        found = tuple(entry for entry in found if entry.name == framework.replace("-", "_"))
    if not found:
        names = ", ".join(entry.name.replace("_", "-") for entry in plugins.installed()) or "none"
        raise UserError(f"--framework {framework}: no such plug-in (installed: {names})")
    return list(found)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    main()
