"""Plans: what will happen to the data, checked before anything does."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from aaflow_plugins.dataplane import schemas
from aaflow_plugins.operators import Apply, Operator
from aaflow_plugins.remote import RemoteCall

if TYPE_CHECKING:
    from aaflow_plugins.scheduler import Schedule


class PlanError(ValueError):
    """Two operators that do not fit together."""


@dataclass(frozen=True, init=False)
class Plan:
    """An immutable chain of operators whose schemas fit, edge by edge.

    Attributes:
        operators: The operators, first to last.
        edges: The schema that leaves each operator, in the same order.
    """

    operators: tuple[Operator, ...]
    edges: tuple[pa.Schema, ...]

    def __init__(self, operators: Iterable[Operator]) -> None:
        """Check and freeze.

        Raises:
            PlanError: If the chain is empty or an operator reads a field that does not arrive, or
                arrives with another type. The message names both operators and the field.
        """
        chain = tuple(operators)
        if not chain:
            raise PlanError("a plan needs at least one operator")
        edges: list[pa.Schema] = []
        for position, operator in enumerate(chain):
            incoming = edges[-1] if edges else pa.schema([])
            _check_edge(chain[position - 1] if position else None, incoming, operator)
            edges.append(operator.output(incoming))
        object.__setattr__(self, "operators", chain)
        object.__setattr__(self, "edges", tuple(edges))

    @property
    def by_item(self) -> bool:
        """Whether each item goes through by itself, so that there is nothing to schedule in batches."""
        return any(isinstance(operator, Apply) for operator in self.operators)

    @property
    def elsewhere(self) -> dict[int, RemoteCall]:
        """What other ranks can do of the plan, by the position of the operator."""
        found = enumerate(operator.elsewhere for operator in self.operators)
        return {position: remote for position, remote in found if remote is not None}

    def fingerprint(self) -> str:
        """32 hexadecimal digits that depend on the operators, their schemas and configuration, and nothing else.

        The same in every process, and on every run, for the same plan.
        """
        return _digest([_content(operator, edge) for operator, edge in zip(self.operators, self.edges, strict=True)])

    def fingerprints(self) -> dict[str, str]:
        """The fingerprint of each operator by itself, by kind and name, of which none may have another's."""
        return {
            f"{each.kind} {each.name}": _digest(_content(each, edge))
            for each, edge in zip(self.operators, self.edges, strict=True)
        }

    def explain(self, schedule: Schedule | None = None) -> str:
        """The plan as text: operators, schemas, what runs natively and why; with a schedule, how it will run."""
        lines = [f"plan {self.fingerprint()[:12]}"]
        for position, (operator, edge) in enumerate(zip(self.operators, self.edges, strict=True)):
            lines.append(f"{position + 1}. {operator.kind} {operator.name} [{operator.pattern.value}]")
            lines.append(f"     out: {schemas.describe(edge)}")
            waits = "; waits for all of its input" if operator.whole_input else ""
            lines.append(f"     runs: {'natively: ' + operator.native if operator.native else 'fast path'}{waits}")
            if operator.config:
                settings = ", ".join(f"{key}={value!r}" for key, value in sorted(operator.config.items()))
                lines.append(f"     config: {settings}")
            lines.extend(_within(operator, "     "))
            if schedule:
                lines.append(f"     schedule: {schedule.steps[position].describe()}")
        if schedule:
            beyond = "" if schedule.bounded else ", beyond what waits for all of its input and grows with the source"
            lines.append(f"in flight at most: {schedule.in_flight_bytes / 2**20:.1f} MiB predicted{beyond}")
        return "\n".join(lines)


def _digest(content: Any) -> str:
    canonical = json.dumps(content, sort_keys=True, default=repr, ensure_ascii=True)
    return hashlib.blake2b(canonical.encode(), digest_size=16).hexdigest()


def _content(operator: Operator, edge: pa.Schema) -> dict[str, Any]:
    """What of an operator the fingerprint covers."""
    content = {
        "kind": operator.kind,
        "name": operator.name,
        "reads": schemas.describe(operator.reads),
        "output": schemas.describe(edge),
        "config": operator.config,
        "native": operator.native,
    }
    if isinstance(operator, Apply):
        content["inner"] = {role: _content(inner, inner.adds) for role, inner in operator.inner.items()}
    return content


def _within(operator: Operator, indent: str) -> Iterator[str]:
    """Lines for the operators inside another."""
    if isinstance(operator, Apply):
        for role, inner in operator.inner.items():
            why = f", natively: {inner.native}" if inner.native else ""
            waits = "; waits for all of its input" if inner.whole_input else ""
            settings = "".join(f", {key} {value}" for key, value in sorted(inner.config.items()))
            yield f"{indent}{role}: {inner.name}{settings}{why}{waits}"
            yield from _within(inner, indent + "  ")


def _check_edge(before: Operator | None, incoming: pa.Schema, operator: Operator) -> None:
    for want in operator.reads:
        position = incoming.get_field_index(want.name)
        source = f"{before.kind} {before.name}" if before else "the start of the plan"
        edge = f"{source} -> {operator.kind} {operator.name}"
        if position < 0:
            raise PlanError(f"{edge}: field {want.name!r} is read but does not arrive")
        have = incoming.field(position)
        if not schemas.compatible(have, want):
            raise PlanError(
                f"{edge}: field {want.name!r} arrives as {schemas.type_name(have)} "
                f"but is read as {schemas.type_name(want)}"
            )
