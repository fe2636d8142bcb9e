"""The steps of a chain that do the work: prompts, models, parsers, functions, retrievers."""

from __future__ import annotations

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
from langchain_core.output_parsers import BaseOutputParser
from langchain_core.outputs import ChatGeneration, Generation
from langchain_core.prompts import BasePromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda, RunnablePassthrough, RunnablePick
from langchain_core.runnables.config import ensure_config, patch_config
from typing_extensions import override

from aaflow_plugins.flow import Outcome, Point
from aaflow_plugins.operators import StoppedError
from langchain_aaflow.chains.execution import Execution, raised, within
from langchain_aaflow.chains.models import caller_of
from langchain_aaflow.chains.nodes import Call, Kwargs, Node
from langchain_aaflow.retrieval import BatchedRetrieval


class Generate(Call):
    """A chat model."""

    kind = "generate"
    native: BaseChatModel

    @override
    async def run(self, x: Execution, value: Any, config: RunnableConfig, kwargs: Kwargs) -> Any:
        return await self._generate(x, value, config, kwargs, None)

    @override
    async def below(self, x: Execution, value: Any, config: RunnableConfig, kwargs: Kwargs) -> Any:
        return await self._generate(x, value, config, kwargs, x.context(config))

    @override
    async def batched(self, x: Execution, value: Any, config: RunnableConfig, kwargs: Kwargs) -> Any:
        return await self._generate(x, value, config, kwargs, copy_context())

    async def _generate(
        self, x: Execution, value: Any, config: RunnableConfig, kwargs: Kwargs, context: Context | None
    ) -> Any:
        caller = x.shared(self, lambda: caller_of(self.native, x))
        if x.asynchronous:
            return await x.awaited(partial(caller.ainvoke, value, config, kwargs), context)
        return await x.called(partial(caller.invoke, value, config, kwargs), context)


class Quick(Node):
    """A step that computes and never waits, of a class of langchain-core: it runs where it stands."""

    #: What the native code gives handlers with the beginning of its run.
    run_type: str | None = None
    serialized: dict[str, Any] | None = None

    @override
    async def run(self, x: Execution, value: Any, config: RunnableConfig, kwargs: Kwargs) -> Any:
        if kwargs or (x.listening and not x.asynchronous):
            return await x.invoke(self.native, value, config, kwargs, None, is_short=True)
        return await (self._listened(x, value, config) if x.listening else self._unseen(x, value))

    @override
    async def below(self, x: Execution, value: Any, config: RunnableConfig, kwargs: Kwargs) -> Any:
        if kwargs or (x.listening and not x.asynchronous):
            return await x.invoke(self.native, value, config, kwargs, x.context(config), is_short=True)
        return await (self._listened(x, value, config, x.context(config)) if x.listening else self._unseen(x, value))

    @override
    async def batched(self, x: Execution, value: Any, config: RunnableConfig, kwargs: Kwargs) -> Any:
        if kwargs or (x.listening and not x.asynchronous):
            return await x.invoke(self.native, value, config, kwargs, copy_context(), is_short=True)
        return await (self._listened(x, value, config, x.apart_context()) if x.listening else self._unseen(x, value))

    async def _listened(self, x: Execution, value: Any, config: RunnableConfig, context: Context | None = None) -> Any:
        """The output, with a run that handlers are told of in `context`, or in the current one."""
        config = self.configured(within(context, x.ensured, config))
        run = await x.start(
            config, value, self.native, run_type=self.run_type, serialized=self.serialized, context=context
        )
        below = x.context(within(context, x.child, config, run), context)
        return await x.within(run, self._compute_in(below, value), context)

    async def _unseen(self, x: Execution, value: Any) -> Any:
        """The output, where nobody listens."""
        if x.on_loop:
            return await x.called(partial(self.compute, value), copy_context(), slots=0)
        return self.compute(value)

    def configured(self, config: RunnableConfig) -> RunnableConfig:
        """The configuration of its run."""
        return config

    def compute(self, value: Any) -> Any:
        """The output."""
        raise NotImplementedError

    async def _compute_in(self, context: Context, value: Any) -> Any:
        return context.run(self.compute, value)


class Prompt(Quick):
    """A prompt template."""

    kind = "prompt"
    run_type = "prompt"
    native: BasePromptTemplate[Any]

    @property
    def serialized(self) -> dict[str, Any]:  # type: ignore[override]
        """What the template is, for handlers."""
        return self.native._serialized

    @override
    def configured(self, config: RunnableConfig) -> RunnableConfig:
        config["metadata"].update(self.native.metadata or {})
        config["tags"].extend(self.native.tags or ())
        return config

    @override
    def compute(self, value: Any) -> Any:
        return self.native._format_prompt_with_error_handling(value)


class Parse(Quick):
    """An output parser."""

    kind = "parse"
    run_type = "parser"
    native: BaseOutputParser[Any]

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
            return await x.invoke(self.native, value, config, kwargs, None)
        if x.listening:
            return await self._listened(x, value, config)
        if self._looks_up and type(value) is dict:
            found = self.native.func(value)
            if not isinstance(found, Runnable):
                return found
        return await self._called(x, value, x.unseen(config))

    @override
    async def below(self, x: Execution, value: Any, config: RunnableConfig, kwargs: Kwargs) -> Any:
        if kwargs or (x.listening and not x.asynchronous):
            return await x.invoke(self.native, value, config, kwargs, x.context(config))
        if x.listening:
            return await self._listened(x, value, config, x.context(config))
        return await self.run(x, value, config, {})

    @override
    async def batched(self, x: Execution, value: Any, config: RunnableConfig, kwargs: Kwargs) -> Any:
        if kwargs or (x.listening and not x.asynchronous):
            return await x.invoke(self.native, value, config, kwargs, copy_context())
        if x.listening:
            return await self._listened(x, value, config, x.apart_context())
        return await self.run(x, value, config, {})

    async def _listened(self, x: Execution, value: Any, config: RunnableConfig, context: Context | None = None) -> Any:
        """The output, with a run that handlers are told of in `context`, or in the current one."""
        config = within(context, x.ensured, config)
        run = await x.start(config, value, self.native, run_type=None, context=context)
        child = within(context, x.child, config, run)
        return await x.within(run, self._called(x, value, child, context), context)

    async def _called(self, x: Execution, value: Any, config: RunnableConfig, above: Context | None = None) -> Any:
        """What the function returns, or what the runnable does that it returns, below a run."""
        context = x.context(config, above)
        if not x.asynchronous:
            return await x.flow.call(context.run, self._call, value, config)
        if not hasattr(self.native, "afunc"):
            try:
                output = await x.flow.call(context.run, self.native.func, value)
            except StoppedError as stopped:
                raise RuntimeError from stopped.error
        else:
            output = await x.awaited(partial(self._acall, value), context)
        if isinstance(output, Runnable):
            config, context = within(above, self._deeper, value, config), x.context(config, above)
            return await x.awaited(partial(output.ainvoke, value, config), context)
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
