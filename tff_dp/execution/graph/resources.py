"""Operations whose contents outlast a run of their graph, which stock TFF's do not.

Stock TFF gives each run of a computation containers of its own for tables, queues, and the like. In one
process's TensorFlow they would live on: from client to client, from call to call, and into other
computations with the same names. A computation that has any is not run here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import tensorflow as tf

from tff_dp._compat import tensorflow as tf_compat
from tff_dp.execution.graph import bodies

# Variables start anew at each run: `resource_values` makes values of them; `imported_graph` runs their
# initialization.
_VARIABLES = frozenset({"VarHandleOp", "VariableV2"})
# Tables that take their contents once, when the graph is initialized, and refuse to take others.
STATIC_TABLES = frozenset({"HashTable", "HashTableV2"})
# Made anew each time that the operation runs, or kept for one run only.
_OF_ONE_RUN = frozenset(
    {
        "DummyIterationCounter",
        "DummyMemoryCache",
        "DummySeedGenerator",
        "StackV2",
        "TemporaryVariable",
        "TensorArrayGradV3",
        "TensorArrayGradWithShape",
        "TensorArrayV3",
    }
)
_FILLS = frozenset(
    {"InitializeTable", "InitializeTableV2", "LookupTableImport", "LookupTableImportV2"}
    | {"InitializeTableFromTextFile", "InitializeTableFromTextFileV2"}
)
_ANONYMOUS = "Anonymous"  # how the names of operations begin that make a resource without a name
_NAMED_BY = frozenset({"container", "shared_name"})


def outlasts(op: str) -> bool:
    """Returns whether the contents of an operation may outlast a run, by its definition.

    Args:
      op: The name of an operation. An operation that TensorFlow does not know is none of them:
        whatever contains it cannot run in any case.
    """
    definition = tf_compat.op_def(op)
    if definition is None or op in _VARIABLES | STATIC_TABLES | _OF_ONE_RUN:
        return False
    if op.startswith(_ANONYMOUS):
        return False
    if any(attribute.name in _NAMED_BY for attribute in definition.attr):
        return True
    resource = tf.resource.as_datatype_enum
    return definition.is_stateful and any(
        output.type == resource or output.is_ref for output in definition.output_arg
    )


def of(body: bodies.Body, functions: Mapping[str, Any], targets: Iterable[Any]) -> str | None:
    """Returns which operation of a graph outlasts its runs, in words, or None for none.

    Args:
      body: The graph's.
      functions: Its library, by name. TensorFlow runs the stateful operations of a function whether or
        not its results need them, so that all of them count.
      targets: What of the body is wanted.
    """
    pending = [(body, list(body.ordered([*targets, *body.effects])))]
    seen: set[str] = set()
    while pending:
        here, names = pending.pop()
        for node in map(here.nodes.__getitem__, names):
            if outlasts(node.op):
                return f"operation {node.op} ({node.name}) keeps its contents from run to run"
            if node.op in _FILLS and not _is_constant(here, node.name):
                return f"operation {node.op} ({node.name}) fills a table with what a run is given"
            named = [f for value in node.attr.values() for f in (value.func, *value.list.func)]
            for function in {node.op, *(f.name for f in named)} & functions.keys() - seen:
                seen.add(function)
                called = bodies.of_function(functions[function], functions)
                pending.append((called, list(called.nodes)))
    return None


def _is_constant(body: bodies.Body, name: str) -> bool:
    """Returns whether what fills a table is the same in each run."""
    _, *pending = [source for source, index in body.inputs[name] if index >= 0]
    found: set[str] = set()
    while pending:
        source = pending.pop()
        if source in found:
            continue
        found.add(source)
        node = body.nodes.get(source)
        if node is None or source in body.arguments:
            return False
        definition = tf_compat.op_def(node.op)
        if definition is None or definition.is_stateful:
            return False
        pending.extend(other for other, index in body.inputs[source] if index >= 0)
    return True
