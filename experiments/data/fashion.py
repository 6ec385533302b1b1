"""Fashion-MNIST, 70,000 gray images of clothing in 10 classes, over simulated clients.

Where the Debian package `dataset-fashion-mnist` is not installed, the 1,797 images of digits of
scikit-learn stand in: `Images.source` says which ones they are, and results of one say nothing of
the other.

The images have no owners. The clients are simulated: each label's images are dealt out by shares from
a Dirichlet law (`tff_dp.data.dirichlet`), so that sizes differ as well, and for small alpha some
clients have no image at all. They stay, since the population is a public number that has to be the
same for every alpha. This is never FEMNIST, whose clients are writers.

Pixels are divided by the largest possible one (255; 16 of the digits). Images are held out before they
are dealt out.

Source: Xiao, Rasul and Vollgraf, arXiv:1708.07747 (MIT), in Debian; Alpaydin and Kaynak, UCI optical
recognition of handwritten digits, in scikit-learn (BSD).
"""

from __future__ import annotations

import dataclasses
import gzip
import io
import pathlib

import numpy as np

from experiments.data import _files
from experiments.data._split import Split
from tff_dp import _checks, _seeds, data
from tff_dp.errors import ArgumentError

FOLDER = pathlib.Path("/usr/share/datasets/fashion-mnist")
CLASSES = 10
_SHA256 = {
    "train-images-idx3-ubyte.gz": "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
    "train-labels-idx1-ubyte.gz": "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
    "t10k-images-idx3-ubyte.gz": "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
    "t10k-labels-idx1-ubyte.gz": "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
}
_DIGITS_SHA256 = "09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Images(Split):
    """A split of images; `test_ids` is empty, since held-out images belong to no client.

    Attributes:
      source: "fashion-mnist" (28 x 28) or "digits" (8 x 8).
    """

    source: str


def load(
    *,
    held_out: float | None = None,
    seed: int,
    clients: int = 1000,
    alpha: float | None = None,
    examples: int | None = None,
    validation: float | None = None,
    pool: int = 1,
) -> Images:
    """Loads the images, holds some out, and deals the others out to simulated clients.

    Args:
      held_out: Share of all images, in (0, 1), chosen at random; None for the published split of
        Fashion-MNIST (the last 10,000), and for a fifth of the digits, which have none.
      seed: Of the choice of images and of the partition.
      clients: The number of clients, >= 1.
      alpha: The Dirichlet law's concentration, in (0, 1e6]; None deals out evenly (iid).
      examples: How many training images are used, a random choice; None for all.
      validation: To tune on: a share of the training images, in (0, 1), a random choice, is held out in
        place of the test images, which play no part then. None for the test images.
      pool: Pixels are averaged over squares of so many by so many, which both sides must be multiples
        of; 1 for the images as they are.

    Returns:
      x [images, height / pool, width / pool, 1] in [0, 1], float32; y [images], int32, the class.

    Raises:
      ArgumentError: A value is outside its bound.
      DataError: A file is not the one that the figures here were made with.
    """
    source, x, y, published = _images()
    x = _pooled(x, pool)
    rng = _seeds.generator(_seeds.root(seed), "held-out images")
    order = rng.permutation(len(x))
    if held_out is None and published:
        test, train = np.arange(len(x) - published, len(x)), order[order < len(x) - published]
    else:
        share = _checks.real("held_out", 0.2 if held_out is None else held_out, "(0, 1)")
        test, train = np.split(order, [min(max(round(share * len(x)), 1), len(x) - 1)])
    if validation is not None:
        share = _checks.real("validation", validation, "(0, 1)")
        test, train = np.split(train, [min(max(round(share * len(train)), 1), len(train) - 1)])
    if examples is not None:
        train = train[: _checks.integer("examples", examples, f"[{clients}, {len(train)}]")]
    dealt = (
        data.iid(x[train], y[train], clients=clients, seed=seed)
        if alpha is None
        else data.dirichlet(
            x[train], y[train], clients=clients, alpha=alpha, seed=seed, min_examples=0
        )
    )
    return Images(
        train=dealt,
        test_x=x[test],
        test_y=y[test],
        test_ids=np.array([], str),
        held_out="examples",
        source=source,
    )


def pixels(pool: int) -> int:
    """Returns the number of pixels of an image.

    Args:
      pool: As for `load`.
    """
    return (_side() // pool) ** 2


def _side() -> int:
    return 28 if FOLDER.exists() else 8


def _pooled(x: np.ndarray, pool: int) -> np.ndarray:
    """Returns images of averages over squares of pixels."""
    side = x.shape[1]
    _checks.integer("pool", pool, f"[1, {side}]")
    if side % pool:
        raise ArgumentError(
            f"pool={pool} is outside its bound: expected a divisor of the images' side, {side}."
        )
    if pool == 1:
        return x
    parts = [x[:, row::pool, column::pool] for row in range(pool) for column in range(pool)]
    return np.asarray(sum(parts[1:], start=parts[0]) / np.float32(len(parts)))


def _images() -> tuple[str, np.ndarray, np.ndarray, int]:
    """Returns the source's name, all images, their classes, and how many of the last are its test."""
    if not FOLDER.exists():
        return _digits()
    train_x, train_y, test_x, test_y = (_idx(name) for name in _SHA256)
    x = np.concatenate([train_x, test_x])[..., None].astype(np.float32) / 255
    return "fashion-mnist", x, np.concatenate([train_y, test_y]).astype(np.int32), len(test_y)


def _idx(name: str) -> np.ndarray:
    """Reads a file in the IDX format: magic number 0, 0, type (8: bytes), dimensions; sizes; bytes."""
    remedy = "Install the Debian package dataset-fashion-mnist, version 0.0~git20200523.55506a9-1."
    raw = gzip.decompress(_files.contents(FOLDER / name, _SHA256[name], remedy))
    shape = np.frombuffer(raw, ">u4", count=raw[3], offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape)


def _digits() -> tuple[str, np.ndarray, np.ndarray, int]:
    remedy = "Install scikit-learn."
    path = _files.folder("sklearn", remedy) / "datasets" / "data" / "digits.csv.gz"
    raw = gzip.decompress(_files.contents(path, _DIGITS_SHA256, remedy))
    table = np.loadtxt(io.BytesIO(raw), delimiter=",")
    x = table[:, :-1].reshape(-1, 8, 8, 1).astype(np.float32) / 16
    return "digits", x, table[:, -1].astype(np.int32), 0
