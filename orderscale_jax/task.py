"""The list task: digits in, the same digits out, in order, through one token (paper, section 2).

A model sees `d1 … dn SEP MASK … MASK` and writes `d1 … dn` at the n MASK positions. A list is
therefore its digits alone, an integer array [B, n]; SEP and MASK are the same for every list.
"""

from __future__ import annotations

import dataclasses

import numpy as np

DUPLICATES = ("all", "none", "train_only")
LARGEST_EXHAUSTIVE = 2_000_000  # lists; 100^3 fits, beyond it lists are sampled
N_SAMPLED_VALIDATION = 8_192


@dataclasses.dataclass(frozen=True)
class TaskConfig:
    """Which lists there are and how they are split.

    Attributes:
      list_len: digits per list, n.
      n_digits: size of the alphabet, N; digits are 0 … N-1.
      duplicates: what happens to lists whose digits are all equal: `all` treats them as any list,
        `none` drops them, `train_only` keeps them out of validation.
      train_fraction: share of the lists that trains; the rest validates.
      split_seed: seed of the permutation that splits; 0 is the published split.
    """

    list_len: int = 2
    n_digits: int = 100
    duplicates: str = "all"
    train_fraction: float = 0.8
    split_seed: int = 0

    def __post_init__(self):
        if self.list_len < 1:
            raise ValueError(f"task.list_len must be at least 1, got {self.list_len}")
        if self.n_digits < 2:
            raise ValueError(
                f"task.n_digits must be at least 2 (one digit leaves nothing to tell), got {self.n_digits}"
            )
        if self.duplicates not in DUPLICATES:
            raise ValueError(
                f"task.duplicates must be one of {', '.join(DUPLICATES)}; got {self.duplicates!r}"
            )
        if not 0.0 < self.train_fraction < 1.0:
            raise ValueError(f"task.train_fraction must lie between 0 and 1, got {self.train_fraction}")
        if not 0 <= self.split_seed < 2**32:
            raise ValueError(f"task.split_seed must fit 32 bits and not be negative, got {self.split_seed}")
        if self.list_len == 1 and self.duplicates != "all":
            raise ValueError(
                "lists of one digit are all duplicates: task.duplicates must be 'all' for list_len=1"
            )

    @property
    def n_lists(self) -> int:
        """N^n, the number of lists there are."""
        return self.n_digits**self.list_len

    @property
    def is_exhaustive(self) -> bool:
        """Whether every list can be held in memory and split; otherwise training lists are sampled."""
        return self.n_lists <= LARGEST_EXHAUSTIVE


@dataclasses.dataclass(frozen=True)
class Split:
    """Training and validation lists, int32 [B, n]; `train` is None where lists are sampled."""

    train: np.ndarray | None
    validation: np.ndarray


def make_split(config: TaskConfig) -> Split:
    """The published split (bit for bit for `split_seed=0`), or a fixed validation sample.

    All N^n lists in lexicographic order are permuted and the first `int(train_fraction * N^n)`
    train. Where N^n does not fit, `train` is None and validation is 8,192 seeded lists.
    """
    if not config.is_exhaustive:
        return Split(None, _sample_validation(config))
    lists = np.indices((config.n_digits,) * config.list_len, np.int32).reshape(config.list_len, -1).T
    is_duplicate = (lists == lists[:, :1]).all(axis=1)
    pool = lists if config.duplicates == "all" else lists[~is_duplicate]
    pool = pool[torch_randperm(len(pool), config.split_seed)]
    n_train = int(config.train_fraction * len(pool))
    if not 0 < n_train < len(pool):
        raise ValueError(
            f"{len(pool)} lists cannot be split at train_fraction={config.train_fraction}: "
            "both sides need at least one list; use more digits or longer lists"
        )
    train, validation = pool[:n_train], pool[n_train:]
    if config.duplicates == "train_only":
        train = np.concatenate([train, lists[is_duplicate]])
    return Split(np.ascontiguousarray(train), np.ascontiguousarray(validation))


def torch_randperm(n: int, seed: int) -> np.ndarray:
    """`torch.randperm(n)` on the CPU after `torch.manual_seed(seed)`, without PyTorch.

    Both draw the same 32-bit stream from MT19937, and entry i is exchanged with entry
    i + (draw mod (n - i)). The draws are made at once; only the exchanges are a loop.
    """
    draws = np.random.RandomState(seed).randint(0, 2**32, size=max(n - 1, 0), dtype=np.uint32)
    remaining = np.arange(n, 1, -1, dtype=np.uint32)
    partners = (np.arange(len(draws)) + draws % remaining).tolist()
    entries = list(range(n))
    for i, j in enumerate(partners):
        entries[i], entries[j] = entries[j], entries[i]
    return np.array(entries, dtype=np.int64)


def tokens(lists: np.ndarray, n_digits: int) -> np.ndarray:
    """Lists [B, n] as the model's input tokens [B, 2n+1]: digits, SEP = N+1, n times MASK = N."""
    lists = np.asarray(lists)
    n_lists, list_len = lists.shape
    out = np.full((n_lists, 2 * list_len + 1), n_digits, dtype=np.int32)
    out[:, :list_len] = lists
    out[:, list_len] = n_digits + 1
    return out


def check_lists(lists: np.ndarray, list_len: int, n_digits: int) -> np.ndarray:
    """Lists as an int32 array [B, n]; ValueError if their shape or a digit does not fit."""
    lists = np.asarray(lists)
    if lists.ndim != 2 or lists.shape[1] != list_len:
        raise ValueError(f"lists must have shape [B, {list_len}], got {list(lists.shape)}")
    if not np.issubdtype(lists.dtype, np.integer):
        raise ValueError(f"lists must hold integers, got {lists.dtype}")
    if lists.size and (lists.min() < 0 or lists.max() >= n_digits):
        raise ValueError(f"digits must lie in 0 … {n_digits - 1}, got {lists.min()} … {lists.max()}")
    return lists.astype(np.int32)


def _sample_validation(config: TaskConfig) -> np.ndarray:
    """8,192 seeded lists [8192, n], free of duplicates unless the policy is `all`."""
    generator = np.random.RandomState(config.split_seed)
    shape = (N_SAMPLED_VALIDATION, config.list_len)
    lists = generator.randint(0, config.n_digits, size=shape, dtype=np.int32)
    while config.duplicates != "all" and (again := (lists == lists[:, :1]).all(axis=1)).any():
        lists[again] = generator.randint(
            0, config.n_digits, size=(int(again.sum()), config.list_len), dtype=np.int32
        )
    return lists
