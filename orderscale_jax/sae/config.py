"""What a sparse autoencoder (SAE) is and how it is trained: every option, its meaning and its check."""

from __future__ import annotations

import dataclasses

from orderscale_jax.errors import UserError
from orderscale_jax.options import check_types, check_values

FAMILIES = ("batch_topk", "topk", "matryoshka", "jumprelu", "l1", "binary")
BY_BATCH = ("batch_topk", "matryoshka", "binary")  # keep the largest of a batch, and learn a threshold
PENALTIES = {"jumprelu": 1.0, "l1": 0.1}  # of the published library (`dictionary-learning`)
NESTED = (1 / 32, 1 / 16, 1 / 8, 1 / 4)  # shares of a matryoshka SAE's latents, the rest being one more part
LARGEST_WIDTH = 2**16
MOST_IN_BATCH = 2**24  # latents of a whole batch that can be counted in float32


@dataclasses.dataclass(frozen=True)
class SAEConfig:
    """A sparse autoencoder and its training.

    Latents are `h = relu((x - b_dec) W_enc + b_enc)`, of which few are kept, and the reconstruction is
    `h W_dec + b_dec`; x is SEP's residual after layer 0 less its mean over the training lists.

    Attributes:
      family: which latents are kept. `batch_topk`: the k x B largest of a batch of B, and afterwards those
        above a threshold that follows the smallest one kept (arXiv 2412.06410); `topk`: the k largest of
        each list (2406.04093); `matryoshka`: as `batch_topk`, and the first 1/32, 3/32, 7/32 and 15/32 of
        the latents must reconstruct alone, too (2503.17547); `jumprelu`: those above a threshold
        that each latent learns (2407.14435); `l1`: those above 0, and their sum is penalised; `binary`: as
        `batch_topk`, but a kept latent is 1: it is on or off, and its decoder row has any length.
      width: how many latents, F.
      k: latents kept per list, on average or of each; of `jumprelu` the number that its penalty aims at.
        `l1` does not use it.
      penalty: weight of the term that makes `jumprelu` and `l1` sparse; None for the published 1 and 0.1.
      learning_rate: of Adam, after the warm-up.
      steps: of training.
      batch_size: lists per step, B; each batch is drawn from the training lists without replacement.
      warmup_steps: over which the learning rate rises from 0; and twice as many over which the penalty does.
      max_grad_norm: the gradient's global norm is clipped to this.
      threshold_start: first step after which the threshold of a whole batch is followed.
      threshold_decay: of its exponential moving average.
      aux: weight of the auxiliary loss, in which dead latents reconstruct what the others have left.
      dead_after: samples without firing after which a latent is dead.
      bandwidth: of the kernel with which `jumprelu` learns its thresholds.
    """

    family: str = "batch_topk"
    width: int = 128
    k: int = 3
    penalty: float | None = None
    learning_rate: float = 1e-3
    steps: int = 20_000
    batch_size: int = 4096
    warmup_steps: int = 1000
    max_grad_norm: float = 1.0
    threshold_start: int = 1000
    threshold_decay: float = 0.999
    aux: float = 1 / 32
    dead_after: int = 10_000_000
    bandwidth: float = 0.001

    def __post_init__(self):
        check_types(self, "sae")
        counts = dict.fromkeys(("width", "k", "steps", "batch_size", "dead_after"), 1)
        least = {**counts, "warmup_steps": 0, "threshold_start": 0, "aux": 0}
        check_values(self, "sae", least, {"family": FAMILIES})
        for name in ("steps", "batch_size", "warmup_steps", "threshold_start", "dead_after"):
            if getattr(self, name) >= 2**30:
                raise UserError(f"sae.{name} must be below 2^30, got {getattr(self, name)}")
        if self.width > LARGEST_WIDTH:
            raise UserError(f"sae.width must be at most {LARGEST_WIDTH:,}, got {self.width:,}")
        if self.k > self.width:
            raise UserError(f"sae.k={self.k} keeps more latents than there are (sae.width={self.width})")
        if self.width * self.batch_size > MOST_IN_BATCH and self.family in BY_BATCH:
            raise UserError(
                f"sae.width times sae.batch_size must be at most 2^24, got {self.width * self.batch_size:,}: "
                "give a smaller batch"
            )
        if self.family in BY_BATCH and self.steps < self.threshold_start + 2:
            raise UserError(
                f"sae.steps={self.steps} is too few to learn a threshold, which begins after step "
                f"sae.threshold_start={self.threshold_start}: give {self.threshold_start + 2} or more"
            )
        for name in ("learning_rate", "max_grad_norm", "bandwidth"):
            if not getattr(self, name) > 0:
                raise UserError(f"sae.{name} must be positive, got {getattr(self, name)}")
        if not 0 <= self.threshold_decay < 1:
            raise UserError(f"sae.threshold_decay must be from 0 to below 1, got {self.threshold_decay}")
        if self.penalty is not None and (self.family not in PENALTIES or not self.penalty >= 0):
            raise UserError(
                f"sae.penalty is for {' and '.join(PENALTIES)} and not negative; got {self.penalty} "
                f"with family {self.family}"
            )

    @property
    def weight_of_penalty(self) -> float:
        """`penalty`, or what is published for the family; 0 where there is no such term."""
        return PENALTIES.get(self.family, 0.0) if self.penalty is None else self.penalty

    @property
    def nested(self) -> tuple[int, ...]:
        """How many of the first latents must reconstruct alone, ascending; the last number is all."""
        if self.family != "matryoshka":
            return (self.width,)
        ends, total = [], 0
        for share in NESTED:
            total += int(share * self.width)
            ends.append(total)
        return tuple(sorted({end for end in ends if end} | {self.width}))

    def __str__(self) -> str:
        sparse = f"penalty {self.weight_of_penalty:g}" if self.family == "l1" else f"k {self.k}"
        return f"{self.family}, width {self.width}, {sparse}, rate {self.learning_rate:g}"
