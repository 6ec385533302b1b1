"""Which kind of round a mechanism makes."""

from __future__ import annotations

from tff_dp.accounting.arithmetic import Arithmetic
from tff_dp.accounting.correlated import BandedRound, TreeRound
from tff_dp.accounting.distributed import DistributedGaussianRound, DistributedSkellamRound
from tff_dp.accounting.events import AdaptiveGaussianRound, GaussianRound, Round
from tff_dp.accounting.laplace import LaplaceRound
from tff_dp.accounting.local import LocalGaussianRound, LocalLaplaceRound
from tff_dp.accounting.record import RecordRound
from tff_dp.errors import ArgumentError
from tff_dp.mechanisms import (
    AdaptiveGaussianMechanism,
    BandedMechanism,
    DistributedGaussianMechanism,
    DistributedSkellamMechanism,
    GaussianMechanism,
    LaplaceMechanism,
    LocalGaussianMechanism,
    LocalLaplaceMechanism,
    Mechanism,
    PerLayerGaussianMechanism,
    RecordGaussianMechanism,
    TreeMechanism,
)
from tff_dp.mechanisms.distributed import DistributedMechanism
from tff_dp.sampling import Adjacency, Sampler

_GRID = ("dimension", "bits", "beta", "modclip_prob")

# The kind, and the fields of it that are the mechanism's.
_KINDS: dict[type[Mechanism], tuple[type[Round], tuple[str, ...]]] = {
    GaussianMechanism: (GaussianRound, ()),
    AdaptiveGaussianMechanism: (AdaptiveGaussianRound, ()),
    PerLayerGaussianMechanism: (GaussianRound, ()),
    LaplaceMechanism: (LaplaceRound, ()),
    TreeMechanism: (TreeRound, ("restart_every",)),
    BandedMechanism: (BandedRound, ("bands",)),
    LocalGaussianMechanism: (LocalGaussianRound, ()),
    LocalLaplaceMechanism: (LocalLaplaceRound, ()),
    DistributedGaussianMechanism: (DistributedGaussianRound, _GRID),
    DistributedSkellamMechanism: (DistributedSkellamRound, _GRID),
    RecordGaussianMechanism: (RecordRound, ("batch_size", "local_steps")),
}


def round_of(
    mechanism: Mechanism,
    sampler: Sampler,
    population: int,
    adjacency: Adjacency | None = None,
    records: tuple[int, ...] | None = None,
) -> Round:
    """Returns what one round of a mechanism costs.

    Args:
      mechanism: The mechanism.
      sampler: Who takes part.
      population: Number of clients, N.
      adjacency: The neighbouring relation; None for the first that can be accounted for.
      records: Each client's number of records, where the mechanism protects records.

    Raises:
      ArgumentError: The mechanism is unknown, or a value outside its bound.
      AccountingError: There is no valid accounting for the combination.
    """
    if type(mechanism) not in _KINDS:
        known = ", ".join(kind.__name__ for kind in _KINDS)
        raise ArgumentError(f"mechanism={mechanism!r} has no accounting: expected one of {known}.")
    kind, fields = _KINDS[type(mechanism)]
    if adjacency is None:
        adjacency = (*kind.adjacencies(sampler), *Adjacency)[0]
    return kind(
        noise_multiplier=mechanism.noise_multiplier,
        sampler=sampler,
        population=population,
        adjacency=adjacency,
        **{name: getattr(mechanism, name) for name in fields},
        **({} if records is None else {"records": records}),
    )


def arithmetic_of(
    mechanism: Mechanism, rounds: int, max_dimension: int, metrics: int = 0
) -> Arithmetic | None:
    """Returns how much noise a round of a mechanism computes, for the charge for arithmetic.

    Args:
      mechanism: The mechanism.
      rounds: The most rounds of a run, on which the levels of a tree depend.
      max_dimension: Trainable parameters of the largest model.
      metrics: How many metrics are released with noise.

    Returns:
      None for distributed mechanisms, whose integer noise is TFF's own: the accuracy of its samplers is
      taken for granted.
    """
    if isinstance(mechanism, DistributedMechanism):
        return None
    times = 1
    if isinstance(mechanism, RecordGaussianMechanism):
        times = mechanism.local_steps
    elif isinstance(mechanism, TreeMechanism):
        times = min(rounds, mechanism.restart_every or rounds).bit_length()  # levels
    # Twice the parameters: a count has noise as well, and draws come in pairs.
    return Arithmetic(draws_per_round=2 * times * max_dimension + metrics)
