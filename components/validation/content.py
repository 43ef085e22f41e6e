"""String columns of a parquet file as numbers: keys that are equal where the content is equal, lengths, characters.

A column is reduced to its distinct values first, so that a million candidates cost as much as the pool they come from.
"""

from __future__ import annotations

from functools import cached_property, reduce

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from components.corpus.rows import bare

CODE_POINTS = 0x110000
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_HALF = np.uint64(32)


class Strings:
    """A column of strings as `codes` into its distinct `values`; a null is read as the empty string."""

    def __init__(self, column: pa.Array) -> None:
        encoded = pc.fill_null(column.cast(pa.large_string()), "").dictionary_encode()
        self.codes: np.ndarray = encoded.indices.to_numpy(zero_copy_only=False)
        self.values: pa.Array = encoded.dictionary

    @cached_property
    def _bare(self) -> pa.Array:
        return pa.array([bare(value) or "" for value in self.values.to_pylist()], pa.large_string())

    def to_arrow(self) -> pa.Array:
        return self.values.take(pa.array(self.codes))

    def take(self, rows: np.ndarray) -> Strings:
        return Strings(self.to_arrow().take(pa.array(rows)))

    def is_empty(self) -> np.ndarray:
        empty: np.ndarray = np.asarray(pc.equal(self.values, ""))
        return empty.take(self.codes)

    def is_blank(self) -> np.ndarray:
        """Returns for each row whether its text says nothing: no more than the image token and white space."""
        empty: np.ndarray = np.asarray(pc.equal(self._bare, ""))
        return empty.take(self.codes)

    def text_keys(self) -> np.ndarray:
        """Returns a uint64 for each row; white space at the ends or doubled, and the image token, do not count."""
        plain = pc.replace_substring_regex(self._bare, r"\s+", " ")
        keys: np.ndarray = pd.util.hash_array(plain.to_numpy(zero_copy_only=False), categorize=False)
        return keys.take(self.codes)


def combine(*keys: np.ndarray) -> np.ndarray:
    """Returns one uint64 key for each row of the given uint64 columns; their order counts."""
    return reduce(_mix, keys, np.zeros(len(keys[0]), np.uint64))


def _mix(total: np.ndarray, key: np.ndarray) -> np.ndarray:
    mixed = (total ^ key.astype(np.uint64)) * _MULTIPLIER
    return mixed ^ (mixed >> _HALF)


def repeated(keys: np.ndarray) -> np.ndarray:
    """Returns the distinct keys that occur more than once."""
    ordered = np.sort(keys)
    return np.unique(ordered[1:][ordered[1:] == ordered[:-1]])


def is_among(keys: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    """Returns for each key whether the ordered array holds it."""
    if not len(ordered):
        return np.zeros(len(keys), bool)
    return np.asarray(ordered[np.minimum(np.searchsorted(ordered, keys), len(ordered) - 1)] == keys)


def character_counts(values: pa.Array) -> np.ndarray:
    """Returns how often each code point occurs in the strings, an int64 for each of Unicode's code points."""
    joined = "".join(values.to_pylist())
    return np.bincount(np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), np.uint32), minlength=CODE_POINTS)
