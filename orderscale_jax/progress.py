"""What a person sees of training runs while they go on."""

from __future__ import annotations

from typing import Any

import numpy as np
from tqdm.auto import tqdm

from orderscale_jax import hosts
from orderscale_jax.training import Run, Setup


class Progress:
    """A bar over the steps of all runs, with rate, loss and accuracies; silent when nobody watches."""

    def __init__(self, setup: Setup, runs: Run, title: str = "", first: int = 0):
        """`first` is the index of the first of these runs among all."""
        self.total = {i: int(steps) for i, steps in enumerate(np.asarray(runs.total_steps), first)}
        self.attempts = {i: int(attempt) for i, attempt in enumerate(np.asarray(runs.attempt), first)}
        self.best = {i: float(best) for i, best in enumerate(np.asarray(runs.best_accuracy), first)}
        self.ended, self.max_steps = set(), setup.train.max_steps
        self.bar = tqdm(
            desc=title or None,
            total=self._expected(),
            initial=sum(self.total.values()),
            unit="step",
            disable=None if hosts.index() == 0 else True,
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
            self.total[i], self.attempts[i] = line["total_steps"], line["attempt"]
            self.best[i] = line["best_accuracy"]
            if line["done"]:
                self.ended.add(i)
        self.bar.total = self._expected()
        numbers = {
            "loss": f"{np.mean([line['train_loss'] or np.nan for line in lines]):.4f}",
            "acc": f"{np.mean([line['val_accuracy'] for line in lines]):.4f}",
            "best": f"{max(self.best.values()):.4f}",
        }
        if len(self.total) > 1:
            numbers["done"] = f"{len(self.ended)}/{len(self.total)}"
        self.bar.set_postfix(numbers, refresh=False)
        self.bar.update(sum(self.total.values()) - self.bar.n)

    def _expected(self) -> int:
        """Steps there will be at most, as far as is known."""
        going = [(self.attempts[i] + 1) * self.max_steps for i in self.total if i not in self.ended]
        return sum(going) + sum(self.total[i] for i in self.ended)
