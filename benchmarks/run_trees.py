"""A plain callback handler that keeps what it is told, and the runs of it as text that can be compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.messages import BaseMessage
from langchain_core.outputs import LLMResult
from langchain_core.prompt_values import PromptValue


class Recorder(BaseCallbackHandler):
    """Keeps every event; nothing is looked at before `trees`."""

    def __init__(self) -> None:
        self._events: list[tuple[str, Any, dict[str, Any]]] = []

    def on_chain_start(self, serialized: Any, inputs: Any, **details: Any) -> None:
        self._events.append(("chain", inputs, details))

    def on_retriever_start(self, serialized: Any, query: str, **details: Any) -> None:
        self._events.append(("retriever", query, details))

    def on_chat_model_start(self, serialized: Any, messages: Any, **details: Any) -> None:
        self._events.append(("chat model", messages, details))

    def on_chain_end(self, outputs: Any, **details: Any) -> None:
        self._events.append(("", outputs, details))

    def on_retriever_end(self, documents: Sequence[Document], **details: Any) -> None:
        self._events.append(("", documents, details))

    def on_llm_end(self, response: LLMResult, **details: Any) -> None:
        self._events.append(("", response, details))

    def trees(self) -> list[str]:
        """Each root run with all below it: kinds, names, tags, inputs and outputs; in an order of their own.

        Raises:
            ValueError: If a run began twice, or did not end exactly once.
        """
        labels: dict[UUID, str] = {}
        ended: set[UUID] = set()
        below: dict[UUID | None, list[UUID]] = {}
        for kind, content, details in list(self._events):
            run = details["run_id"]
            if kind:
                if run in labels:
                    raise ValueError(f"{labels[run]} began twice")
                labels[run] = f"{kind} {details.get('name')} {sorted(details.get('tags') or ())} {_text(content)}"
                below.setdefault(details.get("parent_run_id"), []).append(run)
            else:
                if run not in labels or run in ended:
                    raise ValueError(f"{labels.get(run, run)} ended without a beginning of its own")
                ended.add(run)
                labels[run] += f" -> {_text(content)}"
        if len(ended) < len(labels):
            raise ValueError(f"{len(labels) - len(ended)} runs did not end")

        def tree(run: UUID) -> str:
            return f"{labels[run]} [{' | '.join(sorted(map(tree, below.get(run, ()))))}]"

        return sorted(map(tree, below.get(None, ())))


def _text(value: Any) -> str:
    """A value without what is random in it: the ids of messages."""
    if isinstance(value, BaseMessage):
        return f"{value.type}: {value.content}"
    if isinstance(value, Document):
        return value.page_content
    if isinstance(value, PromptValue):
        return _text(value.to_messages())
    if isinstance(value, LLMResult):
        return _text([[generation.text for generation in prompt] for prompt in value.generations])
    if isinstance(value, dict):
        return str(sorted((key, _text(part)) for key, part in value.items()))
    if isinstance(value, list | tuple):
        return str([_text(part) for part in value])
    return str(value)
