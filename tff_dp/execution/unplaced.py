"""Computations that no client takes part in, as one TensorFlow graph."""

from __future__ import annotations

from typing import Any

from tff_dp import _compat


def is_graph(comp: Any) -> bool:
    """Returns whether a computation is a TensorFlow graph as it stands."""
    proto = _compat.load_tff().framework.serialize_computation(comp)
    return bool(proto.WhichOneof("computation") == "tensorflow")


def has_clients(comp: Any) -> bool:
    """Returns whether a computation takes or returns what is placed at clients."""
    from tensorflow_federated.python.core.impl.types import type_analysis

    tff = _compat.load_tff()
    return bool(
        type_analysis.contains(
            comp.type_signature,
            lambda part: isinstance(part, tff.FederatedType) and part.placement is tff.CLIENTS,
        )
    )


def as_graph(comp: Any) -> Any:
    """Returns a computation of one TensorFlow graph with the same leaves of arguments and results.

    Args:
      comp: A computation whose arguments and results are all placed at the server, or not at all.

    Raises:
      Exception: TFF's compiler cannot do it, such as where clients take part within. It raises many
        kinds.
    """
    import tensorflow as tf
    from tensorflow_federated.python.core.backends.mapreduce import compiler
    from tensorflow_federated.python.core.impl.computation import computation_impl
    from tensorflow_federated.python.core.impl.context_stack import context_stack_impl

    config = tf.compat.v1.ConfigProto()
    config.graph_options.rewrite_options.disable_meta_optimizer = True  # as in `compiling`
    block = _zipped(comp).to_building_block()
    graph = compiler.consolidate_and_extract_local_processing(block, config)
    return computation_impl.ConcreteComputation(
        computation_proto=graph.proto, context_stack=context_stack_impl.context_stack
    )


def _zipped(comp: Any) -> Any:
    """Returns a computation of one argument and one result, as TFF's compiler wants those of a server."""
    from tensorflow_federated.python.common_libs import structure

    tff = _compat.load_tff()
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
    kinds = [kind for _, kind in structure.to_elements(parameter)]
    if not all(isinstance(kind, tff.FederatedType) for kind in kinds):
        raise NotImplementedError("it has an argument without one placement")
    members = tff.FederatedType(tff.StructType([kind.member for kind in kinds]), tff.SERVER)
    return tff.federated_computation(
        lambda given: run(*(given[i] for i in range(len(kinds)))), members
    )


def _has_servers(kind: Any) -> bool:
    """Returns whether a type is a structure of a server's values."""
    from tensorflow_federated.python.core.impl.types import type_analysis

    structure = _compat.load_tff().StructType
    return isinstance(kind, structure) and type_analysis.contains_federated_types(kind)
