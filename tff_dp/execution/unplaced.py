"""Converts computations without clients to a single TensorFlow graph."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tff_dp import _compat

tff = _compat.tff.load()


def is_graph(comp: Any) -> bool:
    """Tells whether a computation is a single TensorFlow graph already.

    Args:
      comp: A `tff.Computation`.

    Returns:
      Whether it is.
    """
    proto = tff.framework.serialize_computation(comp)
    return bool(proto.WhichOneof("computation") == "tensorflow")


def has_placements(kind: Any) -> bool:
    """Tells whether a type has a part that is placed at the server or at clients.

    Args:
      kind: A TFF type.

    Returns:
      Whether it has.
    """
    return bool(tff.types.contains(kind, lambda part: isinstance(part, tff.FederatedType)))


def has_clients(comp: Any) -> bool:
    """Tells whether a computation takes or returns values that are placed at clients.

    Args:
      comp: A `tff.Computation`.

    Returns:
      Whether it does.
    """
    return bool(
        tff.types.contains(
            comp.type_signature,
            lambda part: isinstance(part, tff.FederatedType) and part.placement is tff.CLIENTS,
        )
    )


def as_graph(comp: Any) -> Any:
    """Converts a computation to a single TensorFlow graph.

    Args:
      comp: A computation whose arguments and results are all placed at the server, or not at all.

    Returns:
      A computation that is one graph, whose argument and result have the same leaves in the same
      order.

    Raises:
      NotImplementedError: Some of several arguments are placed, and others are not.
      Exception: TFF's compiler cannot convert it, for example because it uses clients internally.
        It raises exceptions of many classes.
    """
    config = tf.compat.v1.ConfigProto()
    config.graph_options.rewrite_options.disable_meta_optimizer = True  # as in `compilation`
    block = _zipped(comp).to_building_block()
    graph = tff.backends.mapreduce.consolidate_and_extract_local_processing(block, config)
    return tff.framework.ConcreteComputation(
        computation_proto=graph.proto, context_stack=tff.framework.get_context_stack()
    )


def _zipped(comp: Any) -> Any:
    """Returns a computation with one argument and one result, as TFF's compiler needs it."""
    parameter, result = comp.type_signature.parameter, comp.type_signature.result
    several, zipping = _has_servers(parameter), _has_servers(result)
    if not several and not zipping:
        return comp

    def run(*arguments: Any) -> Any:
        found = comp(*arguments)
        return tff.federated_zip(found) if zipping else found

    if parameter is None:
        return tff.federated_computation(lambda: run())
    if not several:
        return tff.federated_computation(lambda given: run(given), parameter)
    kinds = [kind for _, kind in tff.structure.to_elements(parameter)]
    if not all(isinstance(kind, tff.FederatedType) for kind in kinds):
        raise NotImplementedError("it has an argument without one placement")
    members = tff.FederatedType(tff.StructType([kind.member for kind in kinds]), tff.SERVER)
    return tff.federated_computation(
        lambda given: run(*(given[i] for i in range(len(kinds)))), members
    )


def _has_servers(kind: Any) -> bool:
    """Returns whether a type is a structure with placed values."""
    return isinstance(kind, tff.StructType) and has_placements(kind)
