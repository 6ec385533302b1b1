"""A program for an environment that has JAX and neither TensorFlow nor TFF: it runs exported rounds.

Called as `python exported_rounds.py FOLDER`: of each FOLDER/NAME.round, it runs the rounds whose cohorts
and keys are in FOLDER/NAME.npz, and writes the states and metrics to FOLDER/NAME.found.npz.
"""

import pathlib
import sys

import numpy as np

from tff_dp import exported


def run(path: pathlib.Path) -> None:
    given = np.load(path.with_suffix(".npz"))
    rounds = exported.load_exported(path)
    state, found = rounds.initial_state, {}
    for number in range(len(given["keys"])):
        fields = [given[f"{number}.{each.name}"] for each in rounds.manifest.data]
        state, metrics = rounds.step(state, fields, key=given["keys"][number])
        for name, value in {**state, **metrics}.items():
            found[f"{number}.{name}"] = _storable(value)
    # The first round once more, with the key of the second.
    fields = [given[f"0.{each.name}"] for each in rounds.manifest.data]
    state, _ = rounds.step(rounds.initial_state, fields, key=given["keys"][1])
    found.update({f"other key.{name}": _storable(value) for name, value in state.items()})
    np.savez(path.with_suffix(".found.npz"), **found)


def _storable(value) -> np.ndarray:
    """Returns an array that numpy's files can hold: bfloat16, which they lack, as float32."""
    array = np.asarray(value)
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


if __name__ == "__main__":
    assert not {"tensorflow", "tensorflow_federated"} & set(sys.modules)
    for path in sorted(pathlib.Path(sys.argv[1]).glob("*.round")):
        run(path)
