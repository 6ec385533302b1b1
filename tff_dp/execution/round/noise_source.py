"""Where the random bits of a computation come from, in words, and why its noise may not run."""

from __future__ import annotations

from collections.abc import Mapping

from tff_dp.execution import marked_noise
from tff_dp.execution.graph import program, random_sources, random_words
from tff_dp.execution.round import programs
from tff_dp.execution.settings import Settings

_KEYED = "keyed by the system: Philox4x32-10 under 128 bits of entropy for each call"
_SEEDED = "keyed by a seed: not private"
_CLEAR = (
    "Take the operation out of the noise: what can be keyed is Random{Uniform,UniformInt,StandardNormal,"
    "Shuffle}, TruncatedNormal, Multinomial, and clocks that become integers."
)
_OTHER_BITS = "Run it in tff_dp.execution.fast(random_bits='philox')."


def of_round(parts: programs.RoundPrograms, settings: Settings) -> marked_noise.NoiseBits:
    """Tells where the noise of a round gets its random bits.

    Args:
      parts: The programs of the round.
      settings: The settings of the context.

    Returns:
      The source of the bits, or the reason why the computation is refused.
    """
    noisy = {name: parts.programs[name] for name in parts.noisy}
    is_fed = bool(noisy) and feeds(parts, settings)
    return _found(noisy, settings, parts.layout.obstacle if is_fed else None, is_fed=is_fed)


def feeds(parts: programs.RoundPrograms, settings: Settings) -> bool:
    """Tells whether a round's noise is to get its random words as an input of the graph.

    Args:
      parts: The programs of the round.
      settings: The settings of the context.

    Returns:
      True under "aes-ctr". Under "auto", whether the package `cryptography` is installed and all
      noise of the round can be drawn from such words.
    """
    if settings.random_bits == "auto":
        return random_words.is_installed() and parts.layout.obstacle is None
    return settings.random_bits == "aes-ctr"


def of_program(only: program.Program, settings: Settings) -> marked_noise.NoiseBits:
    """Tells where the noise of a computation without clients gets its random bits.

    Args:
      only: The program of the computation.
      settings: The settings of the context.

    Returns:
      The source of the bits, or the reason why the computation is refused. Under "aes-ctr" it is
      refused whenever it has noise.
    """
    noisy = {"computation": only} if only.provenance.marked else {}
    obstacle = "it is not drawn by a server that sums over clients" if noisy else None
    obstacle = obstacle if settings.random_bits == "aes-ctr" else None
    return _found(noisy, settings, obstacle, is_fed=False)


def _found(
    noisy: Mapping[str, program.Program], settings: Settings, not_fed: str | None, *, is_fed: bool
) -> marked_noise.NoiseBits:
    if not noisy:
        return marked_noise.NoiseBits(marked_noise.NONE, marked=False)
    for name, part in noisy.items():
        for obstacle in part.provenance.noise_obstacles:
            found = marked_noise.refusal(f"in {name}, {obstacle}", _CLEAR)
            return marked_noise.NoiseBits(marked_noise.NONE, marked=True, obstacle=found)
    if not_fed:
        found = marked_noise.refusal(
            f"random_bits='aes-ctr' does not reach it, because {not_fed}", _OTHER_BITS
        )
        return marked_noise.NoiseBits(marked_noise.NONE, marked=True, obstacle=found)
    if settings.seed is not None:
        source = marked_noise.SEEDED
    else:
        source = marked_noise.AES_CTR if is_fed else marked_noise.PHILOX
        if any(part.provenance.casts for part in noisy.values()):
            source += marked_noise.CLOCKS
    return marked_noise.NoiseBits(source, marked=True)


def account_of_round(
    parts: programs.RoundPrograms, settings: Settings, *, imported: bool
) -> list[str]:
    """Describes where the random bits of a round come from.

    Args:
      parts: The programs of the round.
      settings: The settings of the context.
      imported: Whether the clients' part runs as an imported graph instead of being rewritten.

    Returns:
      The lines of the description.
    """
    drawing = [name for name, p in parts.programs.items() if p.is_random]
    lines = [_drawn(f"in {', '.join(drawing)}" if drawing else "", settings)]
    if imported:
        lines += _not_keyed("work", parts.work.provenance)
    if parts.noisy:
        lines.append(_noise(f"in {', '.join(parts.noisy)}", of_round(parts, settings)))
    return lines


def account_of_program(only: program.Program, settings: Settings, *, imported: bool) -> list[str]:
    """Describes where the random bits of a computation without clients come from.

    Args:
      only: The program of the computation.
      settings: The settings of the context.
      imported: Whether it runs as an imported graph instead of being rewritten.

    Returns:
      The lines of the description.
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


def _noise(where: str, found: marked_noise.NoiseBits) -> str:
    told = f"refused. {found.obstacle}" if found.obstacle else f"its random bits: {found.source}"
    return f"noise of a privacy plan: {where}; {told}"


def _not_keyed(where: str, found: random_sources.Provenance) -> list[str]:
    """Returns lines on operations of an imported graph that keep TensorFlow's own random bits."""
    if not found.unkeyed and not found.lost:
        return []
    named = ", ".join(dict.fromkeys([*map(str, found.unkeyed), *found.lost]))
    return [
        f"not keyed: in {where}, {named}; TensorFlow seeds them itself, with 32 bits at most, or they "
        "run code of their own. No noise of a privacy plan is drawn by them"
    ]


def check(random_bits: str) -> None:
    """Checks that the packages for a source of random bits are installed.

    Args:
      random_bits: "auto", "philox" or "aes-ctr"; only the last one needs a package.

    Raises:
      StackError: The package `cryptography` is missing.
    """
    if random_bits == "aes-ctr":
        random_words.check_installed()
