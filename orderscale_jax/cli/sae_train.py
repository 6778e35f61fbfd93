"""Trains sparse autoencoders (SAEs) on SEP of one model.

    orderscale sae-train --checkpoint=two_layer --workdir=runs/sae
    orderscale sae-train --checkpoint=two_layer --workdir=runs/sae --family=topk

Written to the work directory: a directory for each SAE, under saes/. The same
command again continues where it was stopped, and --seeds=8 trains eight SAEs
side by side. The model must be a plain one of two layers for lists of two.
"""

from __future__ import annotations

from orderscale_jax.cli import arguments, machine, saes, signals, studied
from orderscale_jax.sae import encode_lists, fidelity, load_sae, sweep

CHECKPOINT = studied.define_checkpoint()
WORKDIR = arguments.define("workdir", "str", None, "the directory for the SAEs.", shown="DIR")
SEEDS = arguments.define("seeds", "int", 1, "how many SAEs, which differ in their seeds.", least=1)
FIRST_SEED = arguments.define("first_seed", "int", 0, "the seed of the first; the others follow.", least=0)
OPTIONS = saes.Options()


def main():
    checkpoint, place, config = (
        arguments.required(CHECKPOINT),
        arguments.required(WORKDIR),
        OPTIONS.load(),
    )
    machine.use_compilation_cache()
    machine.use_all_cores(1 if SEEDS.value == 1 else None)
    name, source = saes.source(checkpoint)
    seeds = range(FIRST_SEED.value, FIRST_SEED.value + SEEDS.value)
    jobs = sweep.grid(config, {}, seeds, name)
    with machine.output_directory(place) as workdir:
        with saes.Shown(jobs) as progress:
            found = sweep.train(
                jobs, {name: source}, workdir, on_steps=progress, interruption=signals.interruption()
            )
    for path in found.values():
        faithful = fidelity(encode_lists(load_sae(path)[0], source.view))
        patched, intact = faithful.patched["validation"], faithful.intact["validation"]
        print(
            f"{path}: MSE {faithful.mse['all']:.5f}, L0 {faithful.l0['all']:.2f}, "
            f"{faithful.dead} latents dead, accuracy on validation lists {patched.outputs_right:.4f} with "
            f"the reconstruction in SEP's place ({intact.outputs_right:.4f} without)"
        )
