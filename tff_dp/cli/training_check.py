"""A short private training, run by `tff-dp doctor` in a process of its own.

Each stage that is completed is reported as a line of JSON.
"""

from __future__ import annotations

import importlib.util
import json
import os
import time
from typing import Any

_BEGUN = time.monotonic()
_CLIENTS, _EXAMPLES, _ROUNDS = 50, 8, 2


def main() -> None:
    """Runs the stages."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    places = getattr(importlib.util.find_spec("tensorflow"), "submodule_search_locations", None)
    if places:  # before the import, which fails if it is something else of this name
        print(json.dumps({"located": next(iter(places))}), flush=True)
    import tensorflow as tf

    from tff_dp import _why_no_gpu

    seen = tf.config.list_physical_devices()
    _say(
        "devices",
        seen=[device.name for device in seen],
        gpus=sum(device.device_type == "GPU" for device in seen),
        build=_why_no_gpu.build_of(tf)._asdict(),
    )
    from tff_dp.execution.devices import choose  # imports TFF

    places = choose("auto")
    used = f"{len(places.names)} {'GPUs' if places.on_gpu else 'threads of the CPU'}"
    _say("imported", used=used, on_gpu=places.on_gpu, seconds=time.monotonic() - _BEGUN)
    started = time.monotonic()
    found = _trained()
    _say("training", **found, seconds=time.monotonic() - started)


def _trained() -> dict[str, Any]:
    import keras
    import numpy as np

    import tff_dp

    drawn = np.random.default_rng()
    clients = tff_dp.data.from_arrays(
        {
            str(client): (
                drawn.normal(size=[_EXAMPLES, 4]).astype("float32"),
                drawn.normal(size=[_EXAMPLES, 1]).astype("float32"),
            )
            for client in range(_CLIENTS)
        }
    )
    plan = tff_dp.PrivacyPlan(
        mechanism=tff_dp.GaussianMechanism(clip_norm=1.0, noise_multiplier=2.0),
        population=_CLIENTS,
        cohort=10,
        rounds=_ROUNDS,
        delta=1e-3,
    )
    model = keras.Sequential([keras.layers.Input([4]), keras.layers.Dense(1)])
    result = tff_dp.fit(model, clients, loss="mse", privacy=plan)
    return {"rounds": len(result.history), "clients": _CLIENTS, "epsilon": result.epsilon}


def _say(stage: str, **found: Any) -> None:
    print(json.dumps({stage: found}), flush=True)


if __name__ == "__main__":
    main()
