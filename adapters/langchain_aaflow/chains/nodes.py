"""What the steps of a chain are: for each, what its `invoke` and `ainvoke` do with one input.

What the native code does beside the work itself (the run, the child configuration, the context) is done in the same
places. A step whose class is not known runs its own `invoke` or `ainvoke`. `leaf_nodes.py` has the steps that do the
work, `composite_nodes.py` those that are made of others.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import copy_context
from typing import Any

from langchain_core.runnables import Runnable, RunnableConfig
from typing_extensions import override

from langchain_aaflow.chains.execution import Execution

Kwargs = dict[str, Any]
Configs = Sequence[RunnableConfig]


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
        """What `native.batch` does for one of its inputs, or `abatch`; raises that input's error.

        What is set there of the context is not seen by who comes after it: natively each input of a batch has a copy.
        """
        return await x.apart(self.run(x, value, config, kwargs))

    def meets(self, listening: bool, configs: Configs = ()) -> bool:
        """Whether all inputs of a batch have to be there before it begins.

        Args:
            listening: Whether anybody listens to runs.
            configs: The inputs' configurations, as far as they are known.
        """
        return self.batches or any(node.ordered for node in self.walk())

    def meets_within(self, listening: bool, configs: Configs = ()) -> bool:
        """The same of a step within another one, which would take its inputs through it one by one."""
        return self.meets(listening, configs)

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
        return await x.invoke(self.native, value, config, kwargs, None)

    @override
    async def below(self, x: Execution, value: Any, config: RunnableConfig, kwargs: Kwargs) -> Any:
        return await x.invoke(self.native, value, config, kwargs, x.context(config))

    @override
    async def batched(self, x: Execution, value: Any, config: RunnableConfig, kwargs: Kwargs) -> Any:
        return await x.invoke(self.native, value, config, kwargs, copy_context())
