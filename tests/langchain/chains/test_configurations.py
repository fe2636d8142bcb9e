"""Configurations of steps are those that langchain-core makes, with less copying."""

from __future__ import annotations

from contextvars import copy_context
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from langchain_core.callbacks import AsyncCallbackManager
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import ensure_config, patch_config, var_child_runnable_config

from langchain_aaflow.chains import execution

_names = st.sampled_from(["a", "model", "checkpoint_ns"])
_plain = st.dictionaries(_names, st.sampled_from(["x", 1, None]), max_size=2)
configs: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "tags": st.lists(st.sampled_from(["one", "two"]), max_size=2),
        "metadata": _plain,
        "configurable": _plain,
        "max_concurrency": st.sampled_from([None, 3]),
        "recursion_limit": st.just(7),
        "run_name": st.sampled_from([None, "named"]),
        "other": st.sampled_from([None, "moved"]),
    },
)


class _Run:
    """As much of a run's manager as is needed."""

    def __init__(self) -> None:
        self.child = AsyncCallbackManager(handlers=[])

    def get_child(self, tag: str | None = None) -> AsyncCallbackManager:
        return self.child


@given(config=configs, inherited=st.none() | configs, below=st.booleans())
def test_configurations_are_the_native_ones(
    config: dict[str, Any], inherited: dict[str, Any] | None, below: bool
) -> None:
    """In any context, whatever of it is given already; and none shares what is changed in place with another."""

    def compared() -> None:
        given: Any = config
        if inherited is not None:
            var_child_runnable_config.set(ensure_config(RunnableConfig(**inherited)))  # type: ignore[typeddict-item]
        if below:
            given = ensure_config(given)
        run, x = _Run(), execution.Execution.__new__(execution.Execution)
        x.listening = True
        for ours, natively in (
            (x.ensured(given), ensure_config(given)),
            (x.child(given, run), patch_config(given, callbacks=run.child)),
        ):
            assert ours == natively
            assert ours.keys() == natively.keys()
            for name in ("tags", "metadata", "configurable"):
                assert ours[name] is not given.get(name)  # type: ignore[literal-required]

    copy_context().run(compared)
