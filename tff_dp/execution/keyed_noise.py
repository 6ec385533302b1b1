"""Where the random bits of a computation come from, in words, and what keeps its noise from running."""

from __future__ import annotations

from collections.abc import Mapping

from tff_dp.execution import noise, program, provenance, rounds, words
from tff_dp.execution.settings import Settings

_KEYED = "keyed by the system: Philox4x32-10 under 128 bits of entropy for each call"
_SEEDED = "keyed by a seed: not private"
_CLEAR = (
    "Take the operation out of the noise: what can be keyed is Random{Uniform,UniformInt,StandardNormal,"
    "Shuffle}, TruncatedNormal, Multinomial, and clocks that become integers."
)
_OTHER_BITS = "Run it in tff_dp.execution.fast(random_bits='philox')."


def of_round(parts: rounds.RoundPrograms, settings: Settings) -> noise.NoiseBits:
    """Returns where the noise of a round gets its random bits."""
    noisy = {name: parts.programs[name] for name in parts.noisy}
    obstacle = parts.layout.obstacle if noisy and settings.random_bits == "aes-ctr" else None
    return _found(noisy, settings, obstacle)


def of_program(only: program.Program, settings: Settings) -> noise.NoiseBits:
    """Returns where the noise of a computation without clients gets its random bits."""
    noisy = {"computation": only} if only.provenance.marked else {}
    obstacle = "it is not drawn by a server that sums over clients" if noisy else None
    return _found(noisy, settings, obstacle if settings.random_bits == "aes-ctr" else None)


def _found(
    noisy: Mapping[str, program.Program], settings: Settings, not_fed: str | None
) -> noise.NoiseBits:
    if not noisy:
        return noise.NoiseBits(noise.NONE, marked=False)
    for name, part in noisy.items():
        for obstacle in part.provenance.noise_obstacles:
            found = noise.refusal(f"in {name}, {obstacle}", _CLEAR)
            return noise.NoiseBits(noise.NONE, marked=True, obstacle=found)
    if not_fed:
        found = noise.refusal(
            f"random_bits='aes-ctr' does not reach it, because {not_fed}", _OTHER_BITS
        )
        return noise.NoiseBits(noise.NONE, marked=True, obstacle=found)
    if settings.seed is not None:
        source = noise.SEEDED
    else:
        source = noise.AES_CTR if settings.random_bits == "aes-ctr" else noise.PHILOX
        if any(part.provenance.casts for part in noisy.values()):
            source += noise.CLOCKS
    return noise.NoiseBits(source, marked=True)


def account_of_round(
    parts: rounds.RoundPrograms, settings: Settings, *, imported: bool
) -> list[str]:
    """Returns lines that tell where a round's random bits come from.

    Args:
      parts: The round's programs.
      settings: The context's.
      imported: Whether the clients' part runs as it was imported.
    """
    drawing = [name for name, p in parts.programs.items() if p.is_random]
    lines = [_drawn(f"in {', '.join(drawing)}" if drawing else "", settings)]
    if imported:
        lines += _not_keyed("work", parts.work.provenance)
    if parts.noisy:
        lines.append(_noise(f"in {', '.join(parts.noisy)}", of_round(parts, settings)))
    return lines


def account_of_program(only: program.Program, settings: Settings, *, imported: bool) -> list[str]:
    """Returns lines that tell where the random bits of a computation without clients come from.

    Args:
      only: The computation's program.
      settings: The context's.
      imported: Whether it runs as it was imported.
    """
    lines = [_drawn("in it" if only.is_random else "", settings)]
    if imported:
        lines += _not_keyed("it", only.provenance)
    if only.provenance.marked:
        lines.append(_noise("in it", of_program(only, settings)))
    return lines


def _drawn(where: str, settings: Settings) -> str:
    if not where:
        return "randomness: no random numbers"
    by = _KEYED if settings.seed is None else _SEEDED
    return f"randomness: random numbers {where}, {by}"


def _noise(where: str, found: noise.NoiseBits) -> str:
    told = f"refused. {found.obstacle}" if found.obstacle else f"its random bits: {found.source}"
    return f"noise of a privacy plan: {where}; {told}"


def _not_keyed(where: str, found: provenance.Provenance) -> list[str]:
    """Returns lines on operations that keep TensorFlow's own bits where a graph runs as imported."""
    if not found.unkeyed and not found.lost:
        return []
    named = ", ".join(dict.fromkeys([*map(str, found.unkeyed), *found.lost]))
    return [
        f"not keyed: in {where}, {named}; TensorFlow seeds them itself, with 32 bits at most, or they "
        "run code of their own. No noise of a privacy plan is drawn by them"
    ]


def check(random_bits: str) -> None:
    """Raises StackError unless the packages for a source of random bits are installed."""
    if random_bits == "aes-ctr":
        words.check_installed()
