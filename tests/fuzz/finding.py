"""What is shown of a fault: a program that can be run by itself."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
from typing import Any

from tests.fuzz import kinds, running
from tests.fuzz.cases import Case
from tests.fuzz.examining import Fault

# What the programs around a case have in common: no name of an operation that tells cases apart.
_COMMON = frozenset(
    [
        "tf.Tensor",
        "tf.cast",
        "tf.stack",
        "tf.size",
        "tf.float32",
        "tf.int32",
        "tf.int64",
        "tf.string",
        "tf.bool",
        "tf.reduce_sum",
        "tf.strings.to_hash_bucket_fast",
        "tf.constant",
        "tf.add_n",
        "tf.convert_to_tensor",
    ]
)


_BOTH_SIDES = """

def attempt(feed):
    try:
        return run(INPUTS, feed)
    except Exception as error:
        return error


with execution.stock(unkeyed_noise=True):
    print("stock TFF:", attempt(FEEDS[0]))
"""


def _one_side(asked: str) -> str:
    setting, _, feed = asked.partition("@")
    arguments = ", ".join(f"{name}={value!r}" for name, value in running.SETTINGS[setting].items())
    data = repr(feed) if feed else "FEEDS[0]"
    return (
        f'with execution.fast({arguments}, device="cpu"):\n'
        f"    print(execution.explain(COMPUTATION))\n"
        f'    print("here:     ", attempt({data}))\n'
    )


@dataclasses.dataclass(frozen=True)
class Finding:
    """A fault of a case.

    Attributes:
      seed: Of the run.
      number: Of the case in the run, before it was made smaller.
      case: The smallest case with it.
      fault: What is wrong, in that case.
      failing: The settings that fail in the case as it was drawn.
      passing: The settings that do not.
    """

    seed: int
    number: int
    case: Case
    fault: Fault
    failing: tuple[str, ...]
    passing: tuple[str, ...]

    @property
    def operations(self) -> frozenset[str]:
        """Names of operations and builders in its program."""
        return operations_of(kinds.source(self.case))

    def covers(self, case: Case, fault: Fault) -> bool:
        """Returns whether a case's fault is likely this one again."""
        return (
            fault.kind == self.fault.kind
            and fault.setting == self.fault.setting
            and case.kind == self.case.kind
            and self.operations <= operations_of(kinds.source(case))
            and (case.kind != "arguments" or self._is_of_same_argument(case))
        )

    def _is_of_same_argument(self, case: Case) -> bool:
        mine, other = self.case.parameters, case.parameters
        return mine["type"] == other["type"] and set(mine["values"]) <= set(other["values"])

    def text(self) -> str:
        """Returns it in words, with its program."""
        return f'"""{self.title()}\n\n{self._account()}\n"""\n\n{self.script()}'

    def title(self) -> str:
        """Returns it in a line."""
        told = " ".join(self.fault.told.split())[:160].replace('"""', "'''").replace("\\", "/")
        return f"{self.fault.kind} under {self.fault.asked}: {told}"

    def _account(self) -> str:
        lines = [
            f"Found by ./run fuzz --seed {self.seed} --case {self.number}, made smaller.",
            f"As drawn it fails in: {', '.join(self.failing)}.",
            f"As drawn it passes in: {', '.join(self.passing) or 'none that was tried'}.",
            "How it runs: " + " ".join(self.fault.how.split())[:400].replace("\\", "/"),
        ]
        return "\n".join(lines)

    def script(self) -> str:
        """Returns its program, which shows both sides."""
        here = [self.fault.asked]
        if self.fault.setting not in running.SETTINGS:  # it is not known which ended the process
            here = list(self.case.settings)
        return kinds.source(self.case) + _BOTH_SIDES + "".join(map(_one_side, here))

    def write(self, folder: pathlib.Path) -> pathlib.Path:
        """Writes the program into a folder, and returns where."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"seed{self.seed}_case{self.number}_{self.fault.setting}.py"
        path.write_text(self.text())
        return path

    def dumps(self) -> str:
        """Returns it as text."""
        held = {**dataclasses.asdict(self), "case": self.case.dumps()}
        return json.dumps(held)

    @classmethod
    def loads(cls, text: str) -> Finding:
        """Returns the finding of a text."""
        held: dict[str, Any] = json.loads(text)
        return cls(
            held["seed"],
            held["number"],
            Case.loads(held["case"]),
            Fault(**held["fault"]),
            tuple(held["failing"]),
            tuple(held["passing"]),
        )


def operations_of(source: str) -> frozenset[str]:
    """Returns the names of operations, helpers and builders in a program."""
    found = re.findall(r"\b(?:tf|tff|k)\.[a-z_]+[\w.]*|\bin_\w+(?=\()|\bchecked(?=\()", source)
    return frozenset(found) - _COMMON
