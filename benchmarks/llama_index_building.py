"""LlamaIndex's VectorStoreIndex over nodes whose vectors are there already: what the bookkeeping costs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.corpus import read_pieces
from benchmarks.digests import of_simple_vectors
from benchmarks.harness import Benchmark, Case, Contender, Scale
from benchmarks.measure import Work
from benchmarks.results import CaseResult

_PIECE, _DIMENSION = 200, 384
_BATCH = 2_048  # the index's insert_batch_size
_NATIVE, _BY_HAND, _OURS = "native", "native stores, filled by hand", "ours"
#: Changes of one kind in a row: one alone is too short to be measured.
_CHANGES = 20

Change = Callable[[Any, Sequence[Any]], None]


def _nodes(parameters: Mapping[str, Any]) -> list[Any]:
    """Pieces of real text as a parser leaves them, each with the vector of a model that is done."""
    from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode

    count, per_document = parameters["nodes"], parameters["per_document"]
    pieces = read_pieces(parameters["corpus"], _PIECE, count)
    vectors = np.random.default_rng(0).standard_normal((count, _DIMENSION), dtype=np.float32)
    return [
        TextNode(
            id_=f"node {row}",
            text=text,
            # Nodes inherit their document's metadata.
            metadata={**pieces[row - row % per_document][1], "document": row // per_document},
            embedding=vectors[row].tolist(),
            relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=f"document {row // per_document}")},
        )
        for row, (text, _) in enumerate(pieces)
    ]


def _index(nodes: Sequence[Any], accelerated: bool) -> Any:
    from llama_index.core import MockEmbedding, VectorStoreIndex

    index_class: Any = VectorStoreIndex
    if accelerated:
        from llama_index_aaflow import accelerate

        index_class = accelerate(VectorStoreIndex)
    return index_class(list(nodes), embed_model=MockEmbedding(_DIMENSION))  # never called: the vectors are there


def _by_hand(nodes: Sequence[Any]) -> Any:
    """The index of one who knows what it keeps, and fills the stores a batch at a time."""
    from llama_index.core import MockEmbedding, StorageContext, VectorStoreIndex
    from llama_index.core.data_structs.data_structs import IndexDict

    storage = StorageContext.from_defaults()
    for start in range(0, len(nodes), _BATCH):
        batch = nodes[start : start + _BATCH]
        storage.vector_store.add(batch)
        storage.docstore.add_documents([node.model_copy(update={"embedding": None}) for node in batch])
    struct = IndexDict(nodes_dict={node.node_id: node.node_id for node in nodes})
    storage.index_store.add_index_struct(struct)
    return VectorStoreIndex(index_struct=struct, storage_context=storage, embed_model=MockEmbedding(_DIMENSION))


def _building(build: Callable[[Sequence[Any]], Any]) -> Callable[[Mapping[str, Any]], Work]:
    def prepare(parameters: Mapping[str, Any]) -> Work:
        nodes = _nodes(parameters)
        return Work(
            run=lambda _: build(nodes),
            digest=_digest,
            warm_up=lambda: build(nodes[:10]),
            facts=lambda _: {"nodes": float(len(nodes))},
        )

    return prepare


def _insert(index: Any, new: Sequence[Any]) -> None:
    for node in new:
        index.insert_nodes([node])


def _delete(index: Any, _: Sequence[Any]) -> None:
    for number in range(_CHANGES):
        index.delete_ref_doc(f"document {7 * number}", delete_from_docstore=True)


_CHANGE: Mapping[str, Change] = {"insert_nodes": _insert, "delete_ref_doc": _delete}


def _changing(accelerated: bool) -> Callable[[Mapping[str, Any]], Work]:
    def prepare(parameters: Mapping[str, Any]) -> Work:
        nodes, change = _nodes(parameters), _CHANGE[parameters["change"]]
        present, after = nodes[:-_CHANGES], nodes[-_CHANGES:]

        def run(index: Any) -> Any:
            change(index, after)
            index.storage_context.index_store.to_dict()
            return index

        return Work(
            run=run,
            before=lambda: _index(present, accelerated),
            digest=_digest,
            warm_up=lambda: run(_index(present[:10], accelerated)) if change is _insert else None,
            facts=lambda _: {"changes": float(_CHANGES)},
        )

    return prepare


def _prepared(accelerated: bool) -> Callable[[Mapping[str, Any]], Work]:
    building, changing = _building(lambda nodes: _index(nodes, accelerated)), _changing(accelerated)
    return lambda parameters: (changing if "change" in parameters else building)(parameters)


def _digest(index: Any) -> str:
    """Everything that the index keeps, in order: documents, the struct in memory and as stored, vectors bit for bit."""
    storage, name = index.storage_context, index.index_id
    struct = {**index.index_struct.to_dict(), "index_id": ""}
    stored = json.dumps(storage.index_store.to_dict()).replace(name, "")
    kept = [struct, stored, storage.docstore.to_dict(), of_simple_vectors(storage.vector_store.data)]
    return hashlib.sha256(json.dumps(kept).encode()).hexdigest()


def _cases(scale: Scale) -> list[Case]:
    if scale.quick:
        built, changed, changes = [(300, 150)], 300, ["insert_nodes"]
    else:
        built = [(20_000, 10), (5_000, 1_000), (1_500, 1_500), (3_000, 3_000)]
        changed, changes = 20_000, [*_CHANGE]
    sample = scale.corpora.sample("all", (changed + _CHANGES) * _PIECE * 5 // 4)
    cases = [
        Case(
            f"{count:,} nodes, {per_document:,} a document",
            {"nodes": count, "per_document": per_document, **sample.parameters},
            # By hand, too, a document's time grows with the square of its nodes.
            (_NATIVE, _BY_HAND, _OURS) if count > per_document else (_NATIVE, _OURS),
        )
        for count, per_document in built
    ]
    return cases + [
        Case(
            f"{_CHANGES} x {change}, {changed:,} nodes present",
            {"nodes": changed + _CHANGES, "per_document": 10, "change": change, **sample.parameters},
            (_NATIVE, _OURS),
        )
        for change in changes
    ]


def _notes(case: CaseResult, cases: Sequence[CaseResult]) -> list[str]:
    """What a node or a change takes, and how the time grows with a document."""
    nodes, per_document = case.parameters["nodes"], case.parameters["per_document"]
    single = "change" if "change" in case.parameters else "node"
    each = "; ".join(
        f"{found.name} {found.spread('cpu').median / (found.fact(f'{single}s') or 1) * 1e6:,.0f} µs"
        for found in case.contenders
    )
    notes = [f"CPU for each {single}: {each}."]
    half = next((other for other in cases if other.parameters["per_document"] * 2 == nodes == per_document), None)
    if half is not None:
        growth = []
        for contender in case.contenders:
            before = half.named(contender.name)
            if before is not None:
                ratio = contender.spread("cpu").median / before.spread("cpu").median
                growth.append(f"{contender.name} {ratio:.1f}x")
        notes.append(f"Twice the nodes in one document take, in CPU (2.0x is linear): {'; '.join(growth)}.")
    return notes


BENCHMARK = Benchmark(
    name="llama-index",
    home="benchmarks.llama_index_building:BENCHMARK",
    title="LlamaIndex's VectorStoreIndex, vectors given",
    protocol=(
        f"Nodes of {_PIECE} characters of real text with the metadata of their document, three values, and embeddings "
        f"of {_DIMENSION} floats, so that neither a parser nor a model takes time. Timed: `VectorStoreIndex(nodes)` "
        "with everything that it keeps in memory by default; by hand, the same stores filled with few large calls. "
        f"Then, in an index that is there: {_CHANGES} calls of `insert_nodes` with one node each, or of "
        "`delete_ref_doc` for one document of ten nodes each (from the document store, too), and one look at the index "
        "store, into which what was put off is written then at the latest. Before that: nodes and their vectors, the "
        "index that is changed, and a warm-up over ten nodes. Compared are the document store, the index struct in "
        "memory and as stored, metadata, and vectors bit for bit, each in its order."
    ),
    metric="cpu",
    contenders=(
        Contender(_NATIVE, "native", _prepared(accelerated=False)),
        Contender(_BY_HAND, "native", _building(_by_hand)),
        Contender(_OURS, "ours", _prepared(accelerated=True)),
    ),
    cases=_cases,
    notes=_notes,
)
