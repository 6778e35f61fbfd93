"""The list task: digits in, the same digits out, in order, through one token (paper, section 2).

A model sees `d1 … dn SEP MASK … MASK` and writes `d1 … dn` at the n MASK positions. A list is
therefore its digits alone, an integer array [B, n]; SEP and MASK are the same for every list.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from orderscale_jax.errors import UserError
from orderscale_jax.host import check_memory
from orderscale_jax.options import check_types, check_values

DUPLICATES = ("all", "none", "train_only")
SPLITS = ("published", "paired", "one_order")
LARGEST_SPLIT = 256 * 2**20  # bytes of all lists as int32; beyond it lists are sampled (50^4 fit, 100^4 not)
N_SAMPLED_VALIDATION = 8_192
MOST_DIGITS = 2**31 - 3  # tokens are 32-bit numbers, and SEP and MASK are two of them
SPLIT_BYTES = 80  # of memory per list while they are split, measured


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
      split: `published` permutes lists. The others permute sets of digits, of which a list is one order:
        `paired` puts all orders of a set on the same side, so that of a training list every other
        order is a training list, too; `one_order` trains at most one order of a set (give a
        task.train_fraction below 1 / n!).
      paired_share: with `paired`, the share of the training lists that come as whole sets, in all their
        orders; of the other sets one order trains (a list of equal digits has only one).
    """

    list_len: int = 2
    n_digits: int = 100
    duplicates: str = "all"
    train_fraction: float = 0.8
    split_seed: int = 0
    split: str = "published"
    paired_share: float = 1.0

    def __post_init__(self):
        check_types(self, "task")
        words = {"duplicates": DUPLICATES, "split": SPLITS}
        check_values(self, "task", {"list_len": 1, "n_digits": 2}, words)
        if self.n_digits > MOST_DIGITS:
            raise UserError(f"task.n_digits must be at most {MOST_DIGITS}, got {self.n_digits}")
        if not 0 <= self.paired_share <= 1:
            raise UserError(f"task.paired_share is a fraction, from 0 to 1; got {self.paired_share}")
        if self.paired_share != 1 and self.split != "paired":
            raise UserError(f"task.paired_share says nothing where task.split is {self.split!r}")
        if self.split != "published" and not self.is_exhaustive:
            raise UserError(
                f"task.split={self.split!r} needs all lists, and {self.n_digits}^{self.list_len} are too many"
            )
        if not 0.0 < self.train_fraction < 1.0:
            raise UserError(f"task.train_fraction must lie between 0 and 1, got {self.train_fraction}")
        if not 0 <= self.split_seed < 2**32:
            raise UserError(f"task.split_seed must fit 32 bits and not be negative, got {self.split_seed}")
        if self.list_len == 1 and self.duplicates != "all":
            raise UserError(
                "lists of one digit are all duplicates: task.duplicates must be 'all' for list_len=1"
            )

    @property
    def n_lists(self) -> int:
        """N^n, the number of lists there are."""
        return self.n_digits**self.list_len

    @property
    def n_shared_out(self) -> int:
        """How many lists a split divides between training and validation: all, or all but duplicates."""
        return self.n_lists - (0 if self.duplicates == "all" else self.n_digits)

    @property
    def is_exhaustive(self) -> bool:
        """Whether every list can be held in memory and split; otherwise training lists are sampled."""
        if self.list_len >= LARGEST_SPLIT.bit_length():  # even of two digits there are too many
            return False
        return self.n_lists * self.list_len * np.dtype(np.int32).itemsize <= LARGEST_SPLIT

    @property
    def split_bytes(self) -> int:
        """Memory that it takes at least to make the lists of `make_split`."""
        if self.is_exhaustive:
            return self.n_lists * SPLIT_BYTES
        return N_SAMPLED_VALIDATION * self.list_len * np.dtype(np.int32).itemsize


@dataclasses.dataclass(frozen=True)
class Split:
    """Training and validation lists, int32 [B, n]; `train` is None where lists are sampled."""

    train: np.ndarray | None
    validation: np.ndarray


def make_split(config: TaskConfig) -> Split:
    """The published split (bit for bit for `split_seed=0`), or a fixed validation sample.

    All N^n lists in lexicographic order are permuted and the first `int(train_fraction * N^n)`
    train. Where N^n does not fit, `train` is None and validation is 8,192 seeded lists. Other splits
    hold as many training lists, or as many as whole sets give, chosen set by set: see `TaskConfig.split`.

    Raises:
      UserError: a side would be empty, there are not enough sets of digits, or not enough memory.
    """
    if not isinstance(config, TaskConfig):
        raise UserError(f"make_split needs a TaskConfig, got {type(config).__name__}")
    what = f"the lists of task.n_digits={config.n_digits} and task.list_len={config.list_len} take"
    check_memory(config.split_bytes, what, "give fewer digits or shorter lists")
    if not config.is_exhaustive:
        return Split(None, _sample_validation(config))
    numbers = np.arange(config.n_lists)  # of lists in lexicographic order: the digits, read as one number
    duplicates = np.arange(config.n_digits) * sum(config.n_digits**i for i in range(config.list_len))
    pool = numbers if config.duplicates == "all" else np.delete(numbers, duplicates)
    n_train = int(config.train_fraction * config.n_shared_out)
    if not 0 < n_train < len(pool):
        raise UserError(
            f"{len(pool)} lists cannot be split at train_fraction={config.train_fraction}: "
            "both sides need at least one list; use more digits or longer lists"
        )
    if config.split == "published":
        pool = pool[torch_randperm(len(pool), config.split_seed)]
        train, validation = pool[:n_train], pool[n_train:]
    else:
        chosen = _choose_by_sets(config, _spell(config, pool), n_train)
        train, validation = pool[chosen], pool[~chosen]
        if not len(train):
            raise UserError(
                f"no whole set of digits fits {n_train} training lists: give a larger task.train_fraction"
            )
    if config.duplicates == "train_only":
        train = np.concatenate([train, duplicates])
    return Split(_spell(config, train), _spell(config, validation))


def _spell(config: TaskConfig, numbers: np.ndarray) -> np.ndarray:
    """Lists [B, n] of numbers [B], whose digits they are."""
    lists = np.empty((len(numbers), config.list_len), np.int32)
    for i in reversed(range(config.list_len)):
        numbers, lists[:, i] = np.divmod(numbers, config.n_digits)
    return lists


def _choose_by_sets(config: TaskConfig, lists: np.ndarray, n_train: int) -> np.ndarray:
    """Which of lists [B, n] train, bool [B], where sets of digits are chosen and not lists.

    Sets come in random order. First whole ones, those that still fit, until `paired_share` of the
    training lists is there; then one order of each of the others.
    """
    generator = np.random.default_rng(config.split_seed)
    order = generator.permutation(len(lists))  # which decides the order of sets, and of the lists of a set
    _, of_set, sizes = np.unique(np.sort(lists, axis=1), axis=0, return_inverse=True, return_counts=True)
    of_set = of_set.reshape(-1)  # NumPy 2.0 gives it another shape
    sets, firsts = np.unique(of_set[order], return_index=True)
    sets, firsts = sets[np.argsort(firsts)], order[np.sort(firsts)]  # a list of each set, as they come
    share = 0.0 if config.split == "one_order" else config.paired_share
    n_paired, whole = round(share * n_train), np.zeros(len(sets), bool)
    left = n_paired
    for i, size in enumerate(sizes[sets]):
        if share and size <= left:
            whole[i] = True
            left -= size
    n_single = n_train - (n_paired - left)
    singles = firsts[~whole]
    if share == 1.0:
        n_single = 0
    if n_single > len(singles):
        raise UserError(
            f"{n_train} training lists cannot be had from {len(sets)} sets of digits with {share:g} of them "
            "in all orders: give a smaller task.train_fraction or a larger task.paired_share"
        )
    chosen = np.isin(of_set, sets[whole])
    chosen[singles[:n_single]] = True
    return chosen


def torch_randperm(n: int, seed: int) -> np.ndarray:
    """`torch.randperm(n)` on the CPU after `torch.manual_seed(seed)`, without PyTorch.

    Both draw the same 32-bit stream from MT19937, and entry i is exchanged with entry
    `partner[i] = i + (draw mod (n - i))`, for i = 0 … n-2 in turn. The exchanges are not made one after
    the other but solved: what stands at place i when its turn comes is what the last exchange with
    partner i brought there, so it is found by following these exchanges back; and it then waits at its
    partner's place until the next exchange with the same partner, or that place's own turn, fetches it.
    """
    draws = np.random.RandomState(seed).randint(0, 2**32, size=max(n - 1, 0), dtype=np.uint32)
    turns = np.arange(n)
    partner = turns.copy()
    partner[:-1] += draws % np.arange(n, 1, -1, dtype=np.uint32)

    origin, moved = turns.copy(), turns[partner != turns]
    origin[partner[moved]] = moved  # of several exchanges the last one stays
    while (origin != (further := origin[origin])).any():  # each look doubles the way followed back
        origin = further

    by_partner = _stable_argsort(partner)
    same = partner[by_partner[1:]] == partner[by_partner[:-1]]
    permuted = partner.copy()  # a place that no exchange has touched holds its own number
    permuted[by_partner[1:][same]] = origin[by_partner[:-1][same]]
    return permuted


def _stable_argsort(numbers: np.ndarray) -> np.ndarray:
    """`numbers.argsort(kind="stable")` of numbers below 2^32: two passes over 16 bits each, which NumPy
    sorts in linear time."""
    order = (numbers & 0xFFFF).astype(np.uint16).argsort(kind="stable")
    return order[(numbers >> 16).astype(np.uint16)[order].argsort(kind="stable")]


def tokens(lists: np.ndarray, n_digits: int) -> np.ndarray:
    """Lists [B, n] as the model's input tokens [B, 2n+1]: digits, SEP = N+1, n times MASK = N."""
    lists = check_lists(lists, None, n_digits)
    n_lists, list_len = lists.shape
    out = np.full((n_lists, 2 * list_len + 1), n_digits, dtype=np.int32)
    out[:, :list_len] = lists
    out[:, list_len] = n_digits + 1
    return out


def check_lists(lists, list_len: int | None, n_digits: int) -> np.ndarray:
    """Lists as an int32 array [B, n]; UserError if their shape, type or a digit does not fit.

    Where `list_len` is None, lists may have any length.
    """
    try:
        lists = np.asarray(lists)
    except ValueError:  # lists of different lengths
        raise UserError(f"{_wanted(list_len)}, got rows of different lengths") from None
    check_list_shape(lists, list_len)
    if lists.size and (lists.min() < 0 or lists.max() >= n_digits):
        raise UserError(f"digits must lie in 0 … {n_digits - 1}, got {lists.min()} … {lists.max()}")
    return lists.astype(np.int32)


def check_list_shape(lists, list_len: int | None):
    """UserError unless an array, or one that is being traced, is integer [B, n]."""
    if lists.ndim != 2 or lists.shape[1] != (list_len or max(lists.shape[1], 1)):
        raise UserError(f"{_wanted(list_len)}, got {list(lists.shape)}")
    if not np.issubdtype(lists.dtype, np.integer):
        raise UserError(f"lists must hold integers, got {lists.dtype}")


def _wanted(list_len: int | None) -> str:
    return f"lists must have shape [B, {list_len or 'n'}]"


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
