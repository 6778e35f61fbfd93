"""Turns a published PyTorch file of an SAE into one of ours.

    orderscale sae-import --source=sae_d100_k3.pt --output=saes/theirs

It reads files of the library dictionary-learning (BatchTopK, TopK, Matryoshka,
JumpReLU, standard) that also hold act_mean, the mean that was subtracted, and
.npz files with the same arrays. PyTorch is not needed, nothing in the file is
run, and a damaged file is refused.
"""

from __future__ import annotations

from orderscale_jax.cli import arguments, machine
from orderscale_jax.errors import UserError
from orderscale_jax.sae import FAMILIES, import_sae, save_sae

SOURCE = arguments.define("source", "str", None, "the published file, .pt or .npz.", shown="FILE")
OUTPUT = arguments.define("output", "str", None, "the directory of the SAE to write.", shown="DIR")
FAMILY = arguments.define(
    "family",
    "str",
    None,
    f"what it is, where its arrays could be of several: {', '.join(FAMILIES)}.",
    shown="NAME",
)


def main():
    source, output = arguments.required(SOURCE), arguments.required(OUTPUT)
    if FAMILY.value is not None and FAMILY.value not in FAMILIES:
        raise UserError(f"--family={FAMILY.value}: there are {', '.join(FAMILIES)}")
    with machine.output_directory(output) as directory:
        sae, about = import_sae(source, family=FAMILY.value)
        save_sae(directory, sae, about)
    print(f"{directory}: {sae.config.family}, {sae.config.width} latents, k {sae.config.k}")
