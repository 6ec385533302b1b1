"""Operations that would keep contents beyond a run of their graph, unlike in stock TFF.

Stock TFF gives each run of a computation new containers for tables, queues, and the like. In the
TensorFlow of one process, such contents would persist from client to client, from call to call, and
into other computations that use the same names. A computation that has any is not run here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import tensorflow as tf

from tff_dp._compat import tensorflow as tf_compat
from tff_dp.execution.graph import bodies

# Variables start from their initial values at each run: `resource_values` replaces them with
# values, and `imported_graph` runs their initialization at each call.
_VARIABLES = frozenset({"VarHandleOp", "VariableV2"})
# Tables that are filled once, when the graph is initialized, and then reject other contents.
STATIC_TABLES = frozenset({"HashTable", "HashTableV2"})
# Resources that are created each time that the operation runs, or that exist for one run only.
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
_ANONYMOUS = "Anonymous"  # prefix of the operations that create a resource without a name
_NAMED_BY = frozenset({"container", "shared_name"})


def outlasts(op: str) -> bool:
    """Returns whether an operation may keep contents beyond a run, according to its definition.

    Args:
      op: The name of the operation.

    Returns:
      Whether it may. An operation that is unknown to TensorFlow does not count, since a graph that
      contains it cannot run in any case.
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
    """Finds an operation of a graph that would keep contents beyond a run.

    Args:
      body: The body of the graph.
      functions: The functions of its library, by name. TensorFlow runs the stateful operations of a
        function even if its results do not depend on them, so that all of its operations count.
      targets: The outputs of the body that are wanted, as `bodies.Reference`.

    Returns:
      The first such operation, in words; None if there is none.
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
    """Returns whether the contents that fill a table are the same in each run."""
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
