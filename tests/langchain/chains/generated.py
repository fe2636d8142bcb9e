"""Random chains: a `Spec` says what a chain is made of, `build` makes it, `specs` and `roots` draw one.

A chain keeps state (attempts, counters), so that each way of running it gets a chain of its own from the same spec.
Every spec but a root takes a text and gives a text; what is between (records, messages, documents, lists) stays inside
one spec's chain. So any spec may stand wherever a text is to be turned into another.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from operator import itemgetter
from typing import Any
from zlib import crc32

from hypothesis import strategies as st
from langchain_core.output_parsers import CommaSeparatedListOutputParser, JsonOutputParser, StrOutputParser
from langchain_core.prompts import ChatPromptTemplate, PromptTemplate
from langchain_core.runnables import (
    ConfigurableField,
    RouterRunnable,
    Runnable,
    RunnableBranch,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
    RunnablePick,
    RunnableSequence,
)

from tests.langchain.chains import parts
from tests.langchain.chains.parts import Conduct, World


class Spec:
    """What a chain is made of; its repr is the code that makes it."""

    def __init__(self, kind: str, *children: Spec, **options: Any) -> None:
        self.kind = kind
        self.children = children
        self.options = options

    def __repr__(self) -> str:
        options = (f"{key}={value!r}" for key, value in self.options.items())
        return f"Spec({', '.join([repr(self.kind), *map(repr, self.children), *options])})"

    def nodes(self) -> list[Spec]:
        """This spec and all that it holds."""
        return [self, *(node for child in self.children for node in child.nodes())]


def build(spec: Spec, world: World) -> Runnable[Any, Any]:
    """Make a new chain.

    Args:
        spec: What it is made of.
        world: What its parts share; a new one for each chain.
    """
    numbers = count(1)

    def conduct(spec: Spec) -> Conduct:
        names = ("error", "every", "attempts", "slow")
        given = {name: spec.options[name] for name in names if name in spec.options}
        return Conduct(world, f"{spec.kind[:3]}{next(numbers)}", **given)

    def make(spec: Spec) -> Runnable[Any, Any]:
        own = conduct(spec)
        return BUILDERS[spec.kind](spec.options, own, [make(child) for child in spec.children])

    return make(spec)


Chains = list[Runnable[Any, Any]]
Options = dict[str, Any]


def _named(text: str) -> dict[str, Any]:
    return {"text": text}


def _joined(record: dict[str, Any]) -> str:
    return parts.shortened(" ".join(str(value) for value in record.values()))


def _is(remainder: int, own: Conduct) -> Callable[[str], bool]:
    def condition(text: str) -> bool:
        own.work(text)
        return crc32(text.encode()) % 3 == remainder

    return condition


def _answered(record: dict[str, Any]) -> str:
    error = record.get("error")
    return f"{record['text']} despite {type(error).__name__}" if error else record["text"]


def _sequence(options: Options, own: Conduct, children: Chains) -> Runnable[Any, Any]:
    return RunnableSequence(*children, name=options.get("name"))


def _parallel(options: Options, own: Conduct, children: Chains) -> Runnable[Any, Any]:
    return RunnableParallel({f"k{number}": child for number, child in enumerate(children)})


def _assign(options: Options, own: Conduct, children: Chains) -> Runnable[Any, Any]:
    assigned = {
        f"k{number}": RunnableLambda(itemgetter("text")) | child if options.get("pick") else _of_record(child)
        for number, child in enumerate(children)
    }
    return RunnableLambda(_named) | RunnablePassthrough.assign(**assigned)


def _of_record(child: Runnable[Any, Any]) -> Runnable[Any, Any]:
    return RunnablePick("text") | child


def _prompt(options: Options) -> Runnable[Any, Any]:
    if options.get("prompt") == "text":
        return PromptTemplate.from_template("{text} as asked", tags=["asked"], metadata={"asked": 1})
    if options.get("prompt") == "record":
        return RunnableParallel(text=RunnablePassthrough()) | PromptTemplate.from_template("{text} as asked")
    return RunnableLambda(_named) | ChatPromptTemplate([("system", "Be brief."), ("human", "{text}")])


def _chat(options: Options, own: Conduct, children: Chains) -> Runnable[Any, Any]:
    form = options.get("form", "text")
    known = {"conduct": own, "form": form, "tags": ["a model"] if options.get("tags") else None}
    model: Any = (parts.AsyncReplying if options.get("asynchronous") else parts.Replying)(**known)
    if options.get("configurable"):
        model = model.configurable_fields(temperature=ConfigurableField(id="temperature"))
    if options.get("stop"):
        model = model.bind(stop=["."])
    parser: Runnable[Any, Any] = StrOutputParser()
    if form == "json":
        parser = JsonOutputParser() | RunnablePick("text")
    if form == "list":
        parser = CommaSeparatedListOutputParser() | RunnableLambda(" ".join)
    return _prompt(options) | model | parser


def _each(options: Options, own: Conduct, children: Chains) -> Runnable[Any, Any]:
    return RunnableLambda(parts.split) | children[0].map() | RunnableLambda(parts.rejoined)


def _branch(options: Options, own: Conduct, children: Chains) -> Runnable[Any, Any]:
    *chosen, default = children
    return RunnableBranch(*((RunnableLambda(_is(number, own)), child) for number, child in enumerate(chosen)), default)


def _router(options: Options, own: Conduct, children: Chains) -> Runnable[Any, Any]:
    keys = options.get("keys", len(children))

    def route(text: str) -> dict[str, Any]:
        own.work(text)
        return {"key": f"k{crc32(text.encode()) % keys}", "input": text}

    return RunnableLambda(route) | RouterRunnable({f"k{number}": child for number, child in enumerate(children)})


def _binding(options: Options, own: Conduct, children: Chains) -> Runnable[Any, Any]:
    (child,) = children
    if options["form"] == "config":
        return child.with_config(
            tags=["bound", own.label], metadata={"bound": own.label}, run_name=f"bound {own.label}"
        )
    if options["form"] == "types":
        return child.with_types(input_type=str, output_type=str)
    if options["form"] == "concurrency":
        return child.with_config(max_concurrency=2)
    return child.with_config(configurable={"suffix": f"!{own.label}", "which": "second"})


def _bound_keywords(options: Options, own: Conduct, children: Chains) -> Runnable[Any, Any]:
    return parts.function("keywords", own).bind(suffix="?")


def _alternatives(options: Options, own: Conduct, children: Chains) -> Runnable[Any, Any]:
    first, second = children
    if not hasattr(first, "configurable_alternatives"):
        first = RunnablePassthrough() | first
    return first.configurable_alternatives(ConfigurableField(id="which"), default_key="first", second=second)


def _retry(options: Options, own: Conduct, children: Chains) -> Runnable[Any, Any]:
    types = tuple(parts.ERROR_TYPES[name] for name in options["on"])
    return children[0].with_retry(
        retry_if_exception_type=types,
        wait_exponential_jitter=False,
        stop_after_attempt=options["tries"],
    )


def _fallbacks(options: Options, own: Conduct, children: Chains) -> Runnable[Any, Any]:
    first, *others = children
    types = tuple(parts.ERROR_TYPES[name] for name in options["on"])
    if not options.get("key"):
        return first.with_fallbacks(others, exceptions_to_handle=types)
    first, *others = (RunnableLambda(_answered) | child for child in children)
    return RunnableLambda(_named) | first.with_fallbacks(others, exceptions_to_handle=types, exception_key="error")


def _retriever(options: Options, own: Conduct, children: Chains) -> Runnable[Any, Any]:
    form = options["form"]
    retriever: Any
    if form in ("memory", "faiss"):
        settings: dict[str, Any] = {"k": 3}
        if options.get("search") == "similarity_score_threshold":
            settings["score_threshold"] = -3.0
        retriever = parts.vector_store(form).as_retriever(
            search_type=options.get("search", "similarity"), search_kwargs=settings, tags=["found"]
        )
    else:
        retriever = (parts.AsyncFinding if form == "asynchronous" else parts.Finding)(
            conduct=own, metadata={"found": 1}
        )
    # The question comes first, and names the input: found documents may be the same for several inputs.
    return RunnableParallel(question=RunnablePassthrough(), context=retriever | parts.formatted) | _joined


BUILDERS: dict[str, Callable[[Options, Conduct, Chains], Runnable[Any, Any]]] = {
    "function": lambda options, own, _: parts.function(options.get("form", "plain"), own),
    "calling": lambda options, own, children: parts.calling(children[0], options["form"]),
    "generator": lambda options, own, _: parts.generator(own),
    "suffixing": lambda options, own, _: (
        parts.Suffixing(conduct=own).configurable_fields(suffix=ConfigurableField(id="suffix"))
        if options.get("configurable")
        else parts.Suffixing(conduct=own)
    ),
    "untraced": lambda options, own, _: parts.Untraced(own),
    "batching": lambda options, own, _: parts.Batching(own),
    "tool": lambda options, own, _: parts.tool(own, options.get("handles_errors", False)),
    "completing": lambda options, own, _: (
        parts.CompletingTogether(conduct=own) if options.get("together") else parts.Completing(conduct=own)
    ),
    "chat": _chat,
    "retriever": _retriever,
    "keywords": _bound_keywords,
    "passthrough": lambda options, own, _: RunnablePassthrough(),
    "sequence": _sequence,
    "parallel": lambda options, own, children: _parallel(options, own, children) | _joined,
    "assign": lambda options, own, children: _assign(options, own, children) | _joined,
    "each": _each,
    "branch": _branch,
    "router": _router,
    "binding": _binding,
    "alternatives": _alternatives,
    "retry": _retry,
    "fallbacks": _fallbacks,
    # As a whole chain only: what comes out is no text.
    "parallel root": _parallel,
    "assign root": _assign,
}

#: How often a part fails, and for how many attempts: most never, so that most inputs come through.
_failing = st.sampled_from(
    [
        *[{}] * 36,
        *({"error": error} for error in parts.ERRORS),
        *({"error": error, "every": 6} for error in parts.ERRORS),
    ]
)
_recovering = st.builds(
    lambda error, attempts, every: {"error": error, "attempts": attempts, "every": every},
    st.sampled_from(sorted(parts.ERRORS)),
    st.integers(1, 3),
    st.sampled_from([1, 2, 3]),
)
_slow = st.sampled_from([{}, {}, {"slow": True}])
_kinds_of_errors = st.sampled_from([("temporary",), ("temporary", "value"), ("value", "key", "odd", "temporary")])


def _leaf(kind: str, failing: st.SearchStrategy[Options] = _failing, **options: Any) -> st.SearchStrategy[Spec]:
    def made(failure: Options, pace: Options, chosen: Options) -> Spec:
        return Spec(kind, **{key: value for key, value in chosen.items() if value}, **failure, **pace)

    drawn = {key: st.sampled_from(value) if isinstance(value, tuple) else value for key, value in options.items()}
    return st.builds(made, failing, _slow, st.fixed_dictionaries(drawn))


_yes_or_no = st.booleans()

_leaves = st.one_of(
    _leaf("function", form=parts.FUNCTION_FORMS),
    _leaf("function", form=parts.FUNCTION_FORMS),
    _leaf("generator"),
    _leaf("suffixing", configurable=_yes_or_no),
    _leaf("untraced"),
    _leaf("batching"),
    _leaf("tool", handles_errors=_yes_or_no),
    _leaf("completing", together=_yes_or_no),
    _leaf(
        "chat",
        prompt=("text", "record", "chat"),
        form=("text", "text", "json", "list"),
        asynchronous=_yes_or_no,
        configurable=_yes_or_no,
        stop=_yes_or_no,
        tags=_yes_or_no,
    ),
    _leaf("retriever", form=("custom", "asynchronous")),
    _leaf(
        "retriever",
        st.just({}),
        form=("memory", "faiss"),
        search=("similarity", "similarity", "mmr", "similarity_score_threshold"),
    ),
    _leaf("keywords"),
    _leaf("passthrough", st.just({})),
)


def _recovering_leaf() -> st.SearchStrategy[Spec]:
    return st.one_of(
        _leaf("function", _recovering, form=("plain", "pair", "config")),
        _leaf("chat", _recovering, asynchronous=_yes_or_no),
        _leaf("untraced", _recovering),
    )


def _composite(inner: st.SearchStrategy[Spec]) -> st.SearchStrategy[Spec]:
    def several(least: int, most: int) -> st.SearchStrategy[list[Spec]]:
        return st.lists(inner, min_size=least, max_size=most)

    def made(kind: str, least: int, most: int, **options: Any) -> st.SearchStrategy[Spec]:
        def one(children: list[Spec], chosen: Options) -> Spec:
            return Spec(kind, *children, **{key: value for key, value in chosen.items() if value})

        drawn = {key: st.sampled_from(value) if isinstance(value, tuple) else value for key, value in options.items()}
        return st.builds(one, several(least, most), st.fixed_dictionaries(drawn))

    retried = st.one_of(_recovering_leaf(), _recovering_leaf(), st.builds(_with_last, inner, _recovering_leaf()))
    return st.one_of(
        made("sequence", 2, 3, name=st.sampled_from([None, "a sequence"])),
        made("sequence", 2, 3),
        made("parallel", 1, 3),
        made("assign", 1, 2, pick=_yes_or_no),
        made("each", 1, 1),
        made("branch", 2, 3),
        st.builds(
            lambda children, more: Spec("router", *children, keys=len(children) + more),
            several(1, 3),
            st.sampled_from([0, 0, 0, 1]),
        ),
        made("binding", 1, 1, form=("config", "config", "types", "concurrency", "configurable")),
        made("alternatives", 2, 2),
        made("calling", 1, 1, form=parts.CALLING_FORMS),
        st.builds(
            lambda child, on, tries: Spec("retry", child, on=on, tries=tries),
            retried,
            _kinds_of_errors,
            st.integers(2, 3),
        ),
        st.builds(
            lambda first, others, on, key: Spec("fallbacks", first, *others, on=on, key=key),
            st.one_of(_recovering_leaf(), inner),
            several(1, 2),
            _kinds_of_errors,
            _yes_or_no,
        ),
    )


def _with_last(first: Spec, last: Spec) -> Spec:
    return Spec("sequence", first, last)


#: Chains that take a text and give one.
specs: st.SearchStrategy[Spec] = st.recursive(_leaves, _composite, max_leaves=6)

#: Whole chains: mostly sequences, as those are what people build, and what has a batch call of its own.
roots: st.SearchStrategy[Spec] = st.one_of(
    st.builds(lambda children: Spec("sequence", *children), st.lists(specs, min_size=2, max_size=4)),
    st.builds(lambda children: Spec("sequence", *children), st.lists(specs, min_size=2, max_size=4)),
    specs,
    st.builds(
        lambda kind, children: Spec(kind, *children),
        st.sampled_from(["parallel root", "assign root"]),
        st.lists(specs, min_size=1, max_size=3),
    ),
)
