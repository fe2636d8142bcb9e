"""The steps of a chain: for each native class, what its `invoke` and `ainvoke` do with one input.

What the native code does beside the work itself (the run, the child configuration, the context) is done here in
the same places. A step whose class is not known runs its own `invoke` or `ainvoke`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextvars import Context, copy_context
from functools import partial
from operator import itemgetter
from typing import Any

from langchain_core.callbacks import (
    AsyncCallbackManager,
    AsyncCallbackManagerForRetrieverRun,
    CallbackManager,
    CallbackManagerForRetrieverRun,
)
from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage
from langchain_core.output_parsers import BaseOutputParser, StrOutputParser
from langchain_core.outputs import ChatGeneration, Generation
from langchain_core.prompts import BasePromptTemplate, ChatPromptTemplate, MessagesPlaceholder, PromptTemplate
from langchain_core.prompts.message import BaseMessagePromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import (
    RouterRunnable,
    Runnable,
    RunnableAssign,
    RunnableBinding,
    RunnableBranch,
    RunnableConfig,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
    RunnablePick,
    RunnableSequence,
    RunnableWithFallbacks,
)
from langchain_core.runnables.base import RunnableEach
from langchain_core.runnables.config import ensure_config, patch_config
from langchain_core.runnables.configurable import DynamicRunnable
from langchain_core.runnables.retry import RunnableRetry
from typing_extensions import override

from aaflow_plugins.flow import Outcome, Point
from aaflow_plugins.operators import StoppedError
from langchain_aaflow.chains.execution import Execution, raised
from langchain_aaflow.chains.models import caller_of
from langchain_aaflow.retrieval import BatchedRetrieval

Kwargs = dict[str, Any]


class Node:
    """A step.

    Attributes:
        native: The runnable it stands for.
        kind: The operator's kind, for `explain`.
        inner: The steps within, by what they are there for.
        reason: Why it runs natively, or None.
        batches: Whether its class has a `batch` of its own, which looks at the inputs together.
        ordered: Whether the order of its calls matters.
        one_by_one: Whether, in addition, no call may begin before the last has ended.
        sees_runs: Whether it may look at its run's configuration or callbacks.
    """

    kind = "call"
    reason: str | None = None
    batches = False
    ordered = False
    one_by_one = False
    sees_runs = False

    def __init__(self, native: Runnable[Any, Any], inner: dict[str, Node] | None = None) -> None:
        self.native = native
        self.inner = inner or {}

    async def run(self, x: Execution, value: Any, config: RunnableConfig, kwargs: Kwargs) -> Any:
        """What `native.invoke(value, config, **kwargs)` does, or `ainvoke`, in the current context."""
        raise NotImplementedError

    async def below(self, x: Execution, value: Any, config: RunnableConfig, kwargs: Kwargs) -> Any:
        """The same in a context in which `config` is the one that runnables inherit."""
        if x.inherits(config):
            return await self.run(x, value, config, kwargs)
        return await x.flow.spawn(self.run(x, value, config, kwargs), x.context(config))

    async def batched(self, x: Execution, value: Any, config: RunnableConfig, kwargs: Kwargs) -> Any:
        """What `native.batch` does for one of its inputs, or `abatch`; raises that input's error."""
        return await self.run(x, value, config, kwargs)

    def meets(self, listening: bool) -> bool:
        """Whether all inputs of a batch have to be there before it begins."""
        return self.batches or any(node.ordered for node in self.walk())

    def walk(self) -> list[Node]:
        """This step and all within."""
        return [self, *(node for inner in self.inner.values() for node in inner.walk())]


class Call(Node):
    """Any runnable, natively."""

    def __init__(
        self,
        native: Runnable[Any, Any],
        reason: str | None,
        *,
        batches: bool = False,
        ordered: bool = False,
        sees_runs: bool = True,
    ) -> None:
        super().__init__(native)
        self.reason, self.batches, self.ordered, self.sees_runs = reason, batches, ordered, sees_runs

    @override
    async def run(self, x: Execution, value: Any, config: RunnableConfig, kwargs: Kwargs) -> Any:
        return await x.invoke(self.native, value, config, kwargs, copy_context())

    @override
    async def below(self, x: Execution, value: Any, config: RunnableConfig, kwargs: Kwargs) -> Any:
        return await x.invoke(self.native, value, config, kwargs, x.context(config))


class Generate(Call):
    """A chat model."""

    kind = "generate"
    native: BaseChatModel

    @override
    async def run(self, x: Execution, value: Any, config: RunnableConfig, kwargs: Kwargs) -> Any:
        return await self._generate(x, value, config, kwargs, copy_context())

    @override
    async def below(self, x: Execution, value: Any, config: RunnableConfig, kwargs: Kwargs) -> Any:
        return await self._generate(x, value, config, kwargs, x.context(config))

    async def _generate(
        self, x: Execution, value: Any, config: RunnableConfig, kwargs: Kwargs, context: Context
    ) -> Any:
        caller = x.shared(self, lambda: caller_of(self.native, listening=x.listening))
        if not x.asynchronous:
            return await x.flow.call(context.run, caller.invoke, value, config, kwargs)
        in_line = x.telling_in_line(config) if caller.is_known else None
        begin = partial(caller.ainvoke, value, in_line or config, kwargs)
        return await x.awaited(begin, context, in_line=in_line is not None)


class Quick(Node):
    """A step that computes and never waits, of a class of langchain-core: it runs where it stands."""

    #: What the native code gives handlers with the beginning of its run.
    run_type: str | None = None
    serialized: dict[str, Any] | None = None

    @override
    async def run(self, x: Execution, value: Any, config: RunnableConfig, kwargs: Kwargs) -> Any:
        if kwargs or (x.listening and not x.asynchronous):
            return await x.invoke(self.native, value, config, kwargs, copy_context(), is_short=True)
        if not x.listening:
            return self.compute(value)
        config = self.configured(x.ensured(config))
        run = await x.start(config, value, self.native, run_type=self.run_type, serialized=self.serialized)
        return await x.within(run, self._compute_below(x, x.child(config, run), value))

    @override
    async def below(self, x: Execution, value: Any, config: RunnableConfig, kwargs: Kwargs) -> Any:
        if kwargs or (x.listening and not x.asynchronous):
            return await x.invoke(self.native, value, config, kwargs, x.context(config), is_short=True)
        return await super().below(x, value, config, kwargs) if x.listening else self.compute(value)

    def configured(self, config: RunnableConfig) -> RunnableConfig:
        """The configuration of its run."""
        return config

    def compute(self, value: Any) -> Any:
        """The output."""
        raise NotImplementedError

    @property
    def is_plain(self) -> bool:
        """Whether no code of anybody else's takes part in computing."""
        return True

    async def _compute_below(self, x: Execution, config: RunnableConfig, value: Any) -> Any:
        if self.is_plain:
            return self.compute(value)
        await x.made()
        return x.context(config).run(self.compute, value)


class Prompt(Quick):
    """A prompt template."""

    kind = "prompt"
    run_type = "prompt"
    native: BasePromptTemplate[Any]

    @property
    def serialized(self) -> dict[str, Any]:  # type: ignore[override]
        """What the template is, for handlers."""
        return self.native._serialized

    @property
    @override
    def is_plain(self) -> bool:
        native: Any = self.native
        messages = native.messages if type(native) is ChatPromptTemplate else [native]
        return all(map(_is_text, messages)) and not native.partial_variables and native.output_parser is None

    @override
    def configured(self, config: RunnableConfig) -> RunnableConfig:
        config["metadata"].update(self.native.metadata or {})
        config["tags"].extend(self.native.tags or ())
        return config

    @override
    def compute(self, value: Any) -> Any:
        return self.native._format_prompt_with_error_handling(value)


def _is_text(message: Any) -> bool:
    """Whether a message of a prompt is text, or made of a text template and the values alone."""
    if type(message) is MessagesPlaceholder:
        return True
    if isinstance(message, BaseMessagePromptTemplate):
        message = getattr(message, "prompt", None)
    if type(message) is PromptTemplate:
        return message.template_format == "f-string" and not message.partial_variables
    return isinstance(message, BaseMessage)


class Parse(Quick):
    """An output parser."""

    kind = "parse"
    run_type = "parser"
    native: BaseOutputParser[Any]

    @property
    @override
    def is_plain(self) -> bool:
        return type(self.native) is StrOutputParser

    @override
    def compute(self, value: Any) -> Any:
        if isinstance(value, BaseMessage):
            return self.native.parse_result([ChatGeneration(message=value)])
        return self.native.parse_result([Generation(text=value)])


class Pass(Quick):
    """A passthrough without a function."""

    kind = "pass"
    native: RunnablePassthrough[Any]

    @override
    def compute(self, value: Any) -> Any:
        return value


class Pick(Quick):
    """Values of a dict."""

    kind = "pick"
    native: RunnablePick

    @override
    def compute(self, value: Any) -> Any:
        return self.native._pick(value)


class Function(Node):
    """A RunnableLambda whose function takes the input alone."""

    kind = "function"
    native: RunnableLambda[Any, Any]

    def __init__(self, native: RunnableLambda[Any, Any]) -> None:
        super().__init__(native)
        #: Looking something up in a dict is done where the input stands.
        self._looks_up = type(getattr(native, "func", None)) is itemgetter and not hasattr(native, "afunc")

    @override
    async def run(self, x: Execution, value: Any, config: RunnableConfig, kwargs: Kwargs) -> Any:
        if kwargs or (x.listening and not x.asynchronous):
            return await x.invoke(self.native, value, config, kwargs, copy_context())
        if x.listening:
            config = x.ensured(config)
            run = await x.start(config, value, self.native, run_type=None)
            return await x.within(run, self._called(x, value, x.child(config, run)))
        if self._looks_up and type(value) is dict:
            found = self.native.func(value)
            if not isinstance(found, Runnable):
                return found
        return await self._called(x, value, x.unseen(config))

    @override
    async def below(self, x: Execution, value: Any, config: RunnableConfig, kwargs: Kwargs) -> Any:
        if kwargs or (x.listening and not x.asynchronous):
            return await x.invoke(self.native, value, config, kwargs, x.context(config))
        return await super().below(x, value, config, kwargs) if x.listening else await self.run(x, value, config, {})

    async def _called(self, x: Execution, value: Any, config: RunnableConfig) -> Any:
        """What the function returns, or what the runnable does that it returns, below a run."""
        context = x.context(config)
        if not x.asynchronous:
            return await x.flow.call(context.run, self._call, value, config)
        if not hasattr(self.native, "afunc"):
            try:
                output = await x.called(context.run, self.native.func, value)
            except StoppedError as stopped:
                raise RuntimeError from stopped.error
        else:
            output = await x.awaited(partial(self._acall, value), context)
        if isinstance(output, Runnable):
            return await x.awaited(partial(output.ainvoke, value, self._deeper(value, config)), x.context(config))
        return output

    def _call(self, value: Any, config: RunnableConfig) -> Any:
        output = self.native.func(value)
        if isinstance(output, Runnable):
            return output.invoke(value, self._deeper(value, config))
        return output

    async def _acall(self, value: Any) -> Any:
        afunc: Any = self.native.afunc
        return await afunc(value)

    def _deeper(self, value: Any, config: RunnableConfig) -> RunnableConfig:
        limit = ensure_config(config)["recursion_limit"]
        if limit <= 0:
            raise RecursionError(f"Recursion limit reached when invoking {self.native} with input {value}.")
        return patch_config(config, recursion_limit=limit - 1)


class Retrieve(Node):
    """A retriever whose queries are answered together."""

    kind = "retrieve"
    native: BaseRetriever

    def __init__(self, native: BaseRetriever, retrieval: BatchedRetrieval) -> None:
        super().__init__(native)
        self.retrieval = retrieval

    @override
    async def run(self, x: Execution, value: Any, config: RunnableConfig, kwargs: Kwargs) -> Any:
        if kwargs or type(value) is not str:
            return await x.invoke(self.native, value, config, kwargs, copy_context())
        run = await self._start(x, value, config) if x.listening else None
        try:
            await x.made()
            documents = await self._answer(x, value)
        except BaseException as error:
            if run is not None:
                await x.tell(run, partial(run.on_retriever_error, raised(error)))
            raise
        if run is not None:
            await x.tell(run, partial(run.on_retriever_end, documents))
        return documents

    async def _start(self, x: Execution, query: str, config: RunnableConfig) -> Any:
        config = x.ensured(config)
        native = self.native
        configure: Any = AsyncCallbackManager.configure if x.asynchronous else CallbackManager.configure
        manager = configure(
            config.get("callbacks"),
            None,
            verbose=False,
            inheritable_tags=config.get("tags"),
            local_tags=native.tags,
            inheritable_metadata={**(config.get("metadata") or {}), **native._get_ls_params()},
            local_metadata=native.metadata,
        )
        name = config.get("run_name") or native.get_name()
        event = partial(manager.on_retriever_start, None, query, name=name, run_id=None)
        return await x.begin(manager, event)

    async def _answer(self, x: Execution, query: str) -> list[Document]:
        retrieval: BatchedRetrieval = x.shared(self.retrieval, self.retrieval.limited)
        embedding, searching = x.shared(self, lambda: self._points(x, retrieval))
        vector: Any
        if retrieval.embeds_together:
            vector = await embedding.ask(query)
        elif x.asynchronous:
            vector = await x.awaited(partial(retrieval.aembed_one, query), copy_context())
        else:
            vector = await x.flow.call(copy_context().run, retrieval.embed_one, query)
        documents: list[Document] | None = None
        if vector is not None:
            documents = await searching.ask((query, vector))
        # What failed for a batch: which query it was, and what else it would have raised, a single call tells.
        return await self._answer_one(x, query) if documents is None else documents

    def _points(self, x: Execution, retrieval: BatchedRetrieval) -> tuple[Point, Point]:
        async def embed(queries: list[str]) -> Sequence[Outcome[Any]]:
            try:
                if x.asynchronous:
                    return _each(await x.awaited(partial(retrieval.aembed, queries), copy_context(), urgent=True))
                return _each(await x.flow.call(retrieval.embed, queries, urgent=True))
            except Exception:
                return _each([None] * len(queries))

        async def search(asked: list[tuple[str, Any]]) -> Sequence[Outcome[list[Document] | None]]:
            queries, vectors = zip(*asked, strict=True)
            try:
                return _each(await x.flow.call(retrieval.search, list(vectors), list(queries), urgent=True))
            except Exception:
                return _each([None] * len(asked))

        embedding = Point(x.flow, embed, x.join_size, x.first_join_size)
        # Side by side, searches would take the cores from each other, and all be done late.
        return embedding, Point(x.flow, search, x.join_size, one_at_a_time=True)

    async def _answer_one(self, x: Execution, query: str) -> list[Document]:
        documents: list[Document]
        if x.asynchronous:
            unseen = AsyncCallbackManagerForRetrieverRun.get_noop_manager()
            asingle = partial(self.native._aget_relevant_documents, query, run_manager=unseen)
            documents = await x.awaited(asingle, copy_context())
        else:
            silent = CallbackManagerForRetrieverRun.get_noop_manager()
            single = partial(self.native._get_relevant_documents, query, run_manager=silent)
            documents = await x.flow.call(copy_context().run, single)
        return documents


def _each(values: Sequence[Any]) -> list[Outcome[Any]]:
    return [Outcome(value, None, number) for number, value in enumerate(values)]


class Steps(Node):
    """A sequence."""

    kind = "sequence"
    native: RunnableSequence[Any, Any]

    @property
    def steps(self) -> list[Node]:
        """The steps, first to last."""
        return list(self.inner.values())

    @override
    def meets(self, listening: bool) -> bool:
        return any(step.meets(listening) for step in self.steps)

    @override
    async def run(self, x: Execution, value: Any, config: RunnableConfig, kwargs: Kwargs) -> Any:
        config = x.ensured(config)
        run = await x.start(config, value, self.native)
        return await x.within(run, self._through(x, value, config, run, kwargs))

    async def _through(self, x: Execution, value: Any, config: RunnableConfig, run: Any, kwargs: Kwargs) -> Any:
        for number, step in enumerate(self.steps, 1):
            config = x.child(config, run, f"seq:step:{number}")
            value = await step.below(x, value, config, {} if number > 1 else kwargs)
        return value

    @override
    async def batched(self, x: Execution, value: Any, config: RunnableConfig, kwargs: Kwargs) -> Any:
        config = x.ensured(config)
        run = await x.start(config, value, self.native, defaults=False)
        return await x.within(run, self._through_batched(x, value, config, run, kwargs))

    async def _through_batched(self, x: Execution, value: Any, config: RunnableConfig, run: Any, kwargs: Kwargs) -> Any:
        for number, step in enumerate(self.steps, 1):
            child = x.child(config, run, f"seq:step:{number}")
            value = await step.batched(x, value, child, {} if number > 1 else kwargs)
            if x.return_exceptions and isinstance(value, Exception):
                raise value
        return value


class Parallel(Node):
    """A dict of steps for one input."""

    kind = "parallel"
    native: RunnableParallel[Any]

    @override
    async def run(self, x: Execution, value: Any, config: RunnableConfig, kwargs: Kwargs) -> Any:
        config = x.ensured(config)
        run = await x.start(config, value, self.native, defaults=x.asynchronous)
        return await x.within(run, self._through(x, value, config, run))

    async def _through(self, x: Execution, value: Any, config: RunnableConfig, run: Any) -> dict[str, Any]:
        configs = {key: x.child(config, run, f"map:key:{key}") for key in self.inner}
        if x.asynchronous:
            # As natively: the first error in time is raised at once, the other steps go on.
            quick = [key for key, step in self.inner.items() if isinstance(step, Quick) and not x.listening]
            begun = {
                key: x.flow.spawn(step.run(x, value, configs[key], {}), x.context(configs[key]))
                for key, step in self.inner.items()
                if key not in quick
            }
            outputs = {key: await self.inner[key].run(x, value, configs[key], {}) for key in quick}
            outputs |= zip(begun, await asyncio.gather(*begun.values()), strict=True)
            return {key: outputs[key] for key in self.inner}
        outcomes = await x.flow.gather(step.below(x, value, configs[key], {}) for key, step in self.inner.items())
        for outcome in outcomes:
            if outcome.error is not None:
                raise outcome.error
        return {key: outcome.value for key, outcome in zip(self.inner, outcomes, strict=True)}


class Assign(Node):
    """A dict and what a mapper adds to it."""

    kind = "assign"
    native: RunnableAssign

    @override
    async def run(self, x: Execution, value: Any, config: RunnableConfig, kwargs: Kwargs) -> Any:
        config = x.ensured(config)
        run = await x.start(config, value, self.native, run_type=None)
        return await x.within(run, self._through(x, value, config, run, kwargs))

    async def _through(self, x: Execution, value: Any, config: RunnableConfig, run: Any, kwargs: Kwargs) -> Any:
        if not isinstance(value, dict):
            raise ValueError("The input to RunnablePassthrough.assign() must be a dict.")
        added = await self.inner["mapper"].below(x, value, x.child(config, run), kwargs)
        return {**value, **added}


class Branch(Node):
    """The first branch whose condition holds."""

    kind = "branch"
    native: RunnableBranch[Any, Any]

    @override
    async def run(self, x: Execution, value: Any, config: RunnableConfig, kwargs: Kwargs) -> Any:
        config = x.ensured(config)
        run = await x.start(config, value, self.native)
        return await x.within(run, self._through(x, value, config, run, kwargs))

    async def _through(self, x: Execution, value: Any, config: RunnableConfig, run: Any, kwargs: Kwargs) -> Any:
        for number in range(1, len(self.native.branches) + 1):
            tag = f"condition:{number}"
            if await self.inner[tag].run(x, value, x.child(config, run, tag), {}):
                tag = f"branch:{number}"
                return await self.inner[tag].run(x, value, x.child(config, run, tag), kwargs)
        return await self.inner["branch:default"].run(x, value, x.child(config, run, "branch:default"), kwargs)


class Bind(Node):
    """A step with arguments or configuration bound to it."""

    kind = "bind"
    native: RunnableBinding[Any, Any]

    @override
    def meets(self, listening: bool) -> bool:
        return self.native.config.get("max_concurrency") is not None or self.inner["bound"].meets(listening)

    @override
    async def run(self, x: Execution, value: Any, config: RunnableConfig, kwargs: Kwargs) -> Any:
        merged, bound_kwargs = self.merged(x, config, kwargs)
        return await self.inner["bound"].run(x, value, merged, bound_kwargs)

    @override
    async def batched(self, x: Execution, value: Any, config: RunnableConfig, kwargs: Kwargs) -> Any:
        merged, bound_kwargs = self.merged(x, config, kwargs)
        return await self.inner["bound"].batched(x, value, merged, bound_kwargs)

    def merged(self, x: Execution, config: RunnableConfig, kwargs: Kwargs) -> tuple[RunnableConfig, Kwargs]:
        """What the native code gives to the bound step."""
        merged = self.native._merge_configs(config)
        if not x.listening:
            merged.pop("run_name", None)
            merged.pop("run_id", None)
        return merged, {**self.native.kwargs, **kwargs}


class Each(Node):
    """A step for each element of a list."""

    kind = "each"
    native: RunnableEach[Any, Any]

    @override
    async def run(self, x: Execution, value: Any, config: RunnableConfig, kwargs: Kwargs) -> Any:
        config = x.ensured(config)
        run = await x.start(config, value, self.native, run_type=None)
        work = x.flow.spawn(self._through(x, value, config, run, kwargs), x.context(x.child(config, run)))
        return await x.within(run, work)

    async def _through(self, x: Execution, value: Any, config: RunnableConfig, run: Any, kwargs: Kwargs) -> Any:
        from langchain_aaflow.chains.batches import batch

        values = list(value)
        config = x.child(config, run)
        configs = [x.child(config, run) for _ in values]
        return await batch(x.returning(False), self.inner["bound"], values, configs, kwargs)


class Fallbacks(Node):
    """A step, and others for when it fails."""

    kind = "fallbacks"
    native: RunnableWithFallbacks[Any, Any]

    @override
    def meets(self, listening: bool) -> bool:
        # With a key for the exception, a batch looks at all inputs before it begins.
        return self.native.exception_key is not None or any(node.meets(listening) for node in self.inner.values())

    @override
    async def run(self, x: Execution, value: Any, config: RunnableConfig, kwargs: Kwargs) -> Any:
        if self.native.exception_key is not None and not isinstance(value, dict):
            raise ValueError(
                "If 'exception_key' is specified then input must be a dictionary."
                f"However found a type of {type(value)} for input"
            )
        config = x.ensured(config)
        run = await x.start(config, value, self.native)
        return await x.within(run, self._through(x, value, config, run, kwargs))

    async def _through(self, x: Execution, value: Any, config: RunnableConfig, run: Any, kwargs: Kwargs) -> Any:
        key, handled = self.native.exception_key, self.native.exceptions_to_handle
        first: BaseException | None = None
        last: BaseException | None = None
        for node in self.inner.values():
            if key and last is not None:
                value[key] = last
            try:
                # As natively: in the context of a child, with the configuration of the run itself.
                return await x.flow.spawn(node.run(x, value, config, kwargs), x.context(x.child(config, run)))
            except BaseException as error:
                last = raised(error)
                if not isinstance(last, handled):
                    raise
                first = first or last
        if first is None:
            raise ValueError("No error stored at end of fallbacks.")
        raise first

    @override
    async def batched(self, x: Execution, value: Any, config: RunnableConfig, kwargs: Kwargs) -> Any:
        config = x.ensured(config)
        shown = value if x.asynchronous or isinstance(value, dict) else {"input": value}
        run = await x.start(config, shown, self.native, defaults=False)
        failure: Any = None
        for number, node in enumerate(self.inner.values()):
            try:
                output = await node.batched(x.returning(True), value, x.child(config, run), kwargs)
            except Exception as error:
                output = raised(error)
            if isinstance(output, self.native.exceptions_to_handle):
                failure = output
            elif not isinstance(output, BaseException):
                await x.end(run, output)
                return output
            elif x.return_exceptions:
                failure = output
                break
            else:
                # As natively, its run is left open.
                raise RankedError(number, output)
        await x.fail(run, failure)
        if x.return_exceptions:
            raise failure
        raise RankedError(len(self.inner), failure)


class RankedError(Exception):
    """An input's error in a step that tries several things in turn, all inputs with one before the next.

    Attributes:
        rank: The number of the thing tried: of two inputs' errors, the native code raises that of the lower.
        error: What is to be raised.
    """

    def __init__(self, rank: int, error: BaseException) -> None:
        super().__init__(rank, error)
        self.rank, self.error = rank, error


class Retry(Call):
    """A step that is tried again.

    By itself it runs natively. In a batch, inputs that fail meet and are tried again together; see `batches`.
    """

    kind = "retry"
    native: RunnableRetry[Any, Any]

    def __init__(self, native: RunnableRetry[Any, Any], bound: Node) -> None:
        super().__init__(native, None, batches=True, sees_runs=False)
        self.inner = {"bound": bound}

    @override
    def meets(self, listening: bool) -> bool:
        # An error that is not retried fails all inputs: no run may have ended well before that is known.
        return listening or self.inner["bound"].meets(listening)


class Route(Node):
    """The step that an input names."""

    kind = "route"
    native: RouterRunnable[Any]

    @override
    def meets(self, listening: bool) -> bool:
        # A batch looks at the keys of all inputs before it begins.
        return True

    def check(self, values: list[Any]) -> None:
        """Raise for inputs that no batch can be made of, as the native `batch` does."""
        keys = [value["key"] for value in values]
        for value in values:
            value["input"]
        if any(key not in self.native.runnables for key in keys):
            raise ValueError("One or more keys do not have a corresponding runnable")

    @override
    async def run(self, x: Execution, value: Any, config: RunnableConfig, kwargs: Kwargs) -> Any:
        key, actual = value["key"], value["input"]
        if key not in self.native.runnables:
            raise ValueError(f"No runnable associated with key '{key}'")
        return await self.inner[key].run(x, actual, config, {})

    @override
    async def batched(self, x: Execution, value: Any, config: RunnableConfig, kwargs: Kwargs) -> Any:
        return await self.inner[value["key"]].run(x, value["input"], config, kwargs)


class Configure(Node):
    """A step that each input's configuration may change."""

    kind = "configure"
    native: DynamicRunnable[Any, Any]

    async def _run(self, x: Execution, value: Any, config: RunnableConfig, kwargs: Kwargs, *, batched: bool) -> Any:
        runnable, prepared = self.native.prepare(config)
        if not x.listening:
            prepared.pop("run_name", None)
            prepared.pop("run_id", None)
        for role, node in self.inner.items():
            if node.native is runnable:
                return await (node.batched if batched and role == "default" else node.run)(x, value, prepared, kwargs)
        return await x.invoke(runnable, value, prepared, kwargs, copy_context())

    @override
    def meets(self, listening: bool) -> bool:
        return any(node.meets(listening) for node in self.inner.values())

    @override
    async def run(self, x: Execution, value: Any, config: RunnableConfig, kwargs: Kwargs) -> Any:
        return await self._run(x, value, config, kwargs, batched=False)

    @override
    async def batched(self, x: Execution, value: Any, config: RunnableConfig, kwargs: Kwargs) -> Any:
        return await self._run(x, value, config, kwargs, batched=True)
