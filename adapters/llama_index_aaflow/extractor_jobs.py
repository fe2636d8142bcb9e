"""The jobs of LlamaIndex's extractors: which they are, of which nodes, and what nodes get of them."""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Iterator
from typing import Any, Final

from llama_index.core.extractors import (
    BaseExtractor,
    KeywordExtractor,
    QuestionsAnsweredExtractor,
    SummaryExtractor,
    TitleExtractor,
)
from llama_index.core.prompts import PromptTemplate

from llama_index_aaflow.known_code import is_native

Metadata = dict[str, Any]

#: What is called and reproduced; a job of nodes last.
_METHODS: Final = {
    BaseExtractor: ("__call__", "acall", "aprocess_nodes", "process_nodes"),
    KeywordExtractor: ("aextract", "_aextract_keywords_from_node"),
    QuestionsAnsweredExtractor: ("aextract", "_aextract_questions_from_node"),
    SummaryExtractor: ("aextract", "_agenerate_node_summary"),
    TitleExtractor: ("aextract", "extract_titles", "separate_nodes_by_ref_id", "get_title_candidates"),
}


class OfNodes:
    """Jobs that each make the metadata of a node: `KeywordExtractor`'s and `QuestionsAnsweredExtractor`'s.

    Attributes:
        count: How many. Their numbers are their places in the native order.
    """

    def __init__(self, extractor: Any, nodes: list[Any]) -> None:
        """Set up.

        Args:
            extractor: The extractor.
            nodes: Its nodes, which may still become what they have to be.
        """
        self.count = len(nodes)
        self._extractor, self._nodes = extractor, nodes
        self._call = getattr(extractor, _METHODS[extractor.aaflow_native][-1])

    def arrived(self, place: int) -> int | None:
        """Be told that a node is what the extractor has to be given; gives the job that can be done now, if one can."""
        return place

    def call(self, job: int) -> Coroutine[Any, Any, Any]:
        """Do a job."""
        made: Coroutine[Any, Any, Any] = self._call(self._nodes[job])
        return made

    def answered(self, job: int, result: Any) -> Iterable[tuple[int, Metadata]]:
        """Be told what a job gave; gives the metadata of nodes, by place, that have all theirs now."""
        return [(job, result)]


class WithNeighbours(OfNodes):
    """Jobs that each make a summary, which neighbours may get, too: `SummaryExtractor`'s."""

    def __init__(self, extractor: Any, nodes: list[Any]) -> None:
        """Set up."""
        super().__init__(extractor, nodes)
        keys = {
            -1: extractor._prev_summary and "prev_section_summary",
            1: extractor._next_summary and "next_section_summary",
            0: extractor._self_summary and "section_summary",
        }
        #: In the native order, by where the summary's node is.
        self._keys = {step: key for step, key in keys.items() if key}
        # A node gets nothing before it has been summarized as it was.
        self._steps = {0, *self._keys}
        self._summaries: list[str] = [""] * self.count
        self._missing = [sum(1 for _ in self._around(place, self._steps)) for place in range(self.count)]

    def answered(self, job: int, result: Any) -> Iterator[tuple[int, Metadata]]:
        """As above."""
        self._summaries[job] = result
        for place in self._around(job, (-step for step in self._steps)):
            self._missing[place] -= 1
            if not self._missing[place]:
                yield place, self._metadata(place)

    def _around(self, place: int, steps: Iterable[int]) -> Iterator[int]:
        return (place + step for step in steps if 0 <= place + step < self.count)

    def _metadata(self, place: int) -> Metadata:
        # Empty summaries are left out natively.
        found = {self._keys[step]: self._summaries[place + step] for step in self._keys if self._has(place + step)}
        return {key: summary for key, summary in found.items() if summary}

    def _has(self, place: int) -> bool:
        return 0 <= place < self.count


class OfDocuments(OfNodes):
    """Jobs that each make a document's title of its first nodes: `TitleExtractor`'s."""

    def __init__(self, extractor: Any, nodes: list[Any]) -> None:
        """Set up."""
        super().__init__(extractor, nodes)
        self._asked = list(extractor.separate_nodes_by_ref_id(nodes).items())
        self.count = len(self._asked)
        numbers = {document: number for number, (document, _) in enumerate(self._asked)}
        self._jobs = [numbers[node.ref_doc_id] for node in nodes]
        self._places: list[list[int]] = [[] for _ in self._asked]
        for place, job in enumerate(self._jobs):
            self._places[job].append(place)
        self._missing = list(map(len, self._places))

    def arrived(self, place: int) -> int | None:
        """As above."""
        job = self._jobs[place]
        self._missing[job] -= 1
        return None if self._missing[job] else job

    async def call(self, job: int) -> Metadata:
        """As above."""
        document, nodes = self._asked[job]
        titles = await self._call(nodes)
        template = PromptTemplate(template=self._extractor.combine_template)
        return {document: await self._extractor.llm.apredict(template, context_str=", ".join(titles))}

    def answered(self, job: int, result: Metadata) -> Iterator[tuple[int, Metadata]]:
        """As above."""
        (title,) = result.values()
        return ((place, {"document_title": title}) for place in self._places[job])


_JOBS: Final[dict[Any, type[OfNodes]]] = {
    KeywordExtractor: OfNodes,
    QuestionsAnsweredExtractor: OfNodes,
    SummaryExtractor: WithNeighbours,
    TitleExtractor: OfDocuments,
}


def jobs_of(extractor: Any, nodes: list[Any]) -> OfNodes:
    """The jobs of an extractor.

    Args:
        extractor: One whose jobs are known.
        nodes: Its nodes, which may still become what they have to be.
    """
    return _JOBS[extractor.aaflow_native](extractor, nodes)


def has_known_jobs(extractor: Any) -> bool:
    """Whether an accelerated extractor's jobs are the native ones of its class, at this moment."""
    kind = extractor.aaflow_native
    methods = [(cls, _METHODS[cls]) for cls in (kind, BaseExtractor)] if kind in _JOBS else []
    return (
        bool(methods)
        and is_native(methods)
        and not any(name in vars(extractor) for _, names in methods for name in names)
    )
