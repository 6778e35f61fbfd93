"""What a person sees of training runs while they go on."""

from __future__ import annotations

from typing import Any

import numpy as np
from tqdm.auto import tqdm

from orderscale_jax.config import Setup
from orderscale_jax.training.run import Run

FORMAT = "{desc} {percentage:3.0f}%|{bar:4}|{n_fmt} {rate_fmt} {remaining}{postfix}"  # fits 80 columns


class Progress:
    """A bar over the steps of all runs, with rate, loss and accuracies; silent when nobody watches.

    Until the first report it says that the program is being compiled.
    """

    def __init__(self, setup: Setup, runs: Run):
        self.total = np.array(runs.total_steps)
        self.attempt = np.array(runs.attempt) + 1
        self.best = np.array(runs.best_accuracy)
        self.ended = np.array(runs.done)
        self.train = setup.train
        self.bar = tqdm(
            desc="compiling",
            total=self._expected(),
            initial=int(self.total.sum()),
            unit="step",
            unit_scale=True,
            bar_format=FORMAT,
            disable=None,
            dynamic_ncols=True,
        )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.bar.close()

    def show(self, lines: list[dict[str, Any]]):
        """Takes in the reports of one stretch."""
        for line in lines:
            i = line["index"]
            self.total[i], self.attempt[i], self.ended[i] = line["total_steps"], line["attempt"], line["done"]
            self.best[i] = line["best_accuracy"]
        self.bar.total = self._expected()
        self.bar.set_description_str(self._title(), refresh=False)
        losses = [np.nan if line["train_loss"] is None else line["train_loss"] for line in lines]
        accuracy = np.mean([line["val_accuracy"] for line in lines])
        self.bar.set_postfix_str(
            f"loss {np.mean(losses):.2f} acc {accuracy:.3f} best {self.best.max():.3f}", refresh=False
        )
        self.bar.update(int(self.total.sum()) - self.bar.n)

    def _title(self) -> str:
        if len(self.total) > 1:
            return f"{self.ended.sum()}/{len(self.total)} done"
        return f"attempt {self.attempt[0]}/{self.train.max_attempts}"

    def _expected(self) -> int:
        """Steps there will be at most, as far as is known."""
        return int(np.where(self.ended, self.total, self.attempt * self.train.max_steps).sum())
