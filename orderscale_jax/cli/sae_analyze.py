"""Asks everything of one SAE: what it keeps, finds, and steers.

    orderscale sae-analyze --sae=two_layer --checkpoint=two_layer --output=sae

Written to the output directory: results.json, figures as .png and .pdf, and
report.html. --checkpoint is the model that the SAE was trained on; if the SAE
says that it was another one, it is refused.
"""

from __future__ import annotations

from orderscale_jax import report
from orderscale_jax.cli import arguments, machine, saes, studied
from orderscale_jax.config import task_config, validation_lists_seen
from orderscale_jax.sae import store, study_sae, view_sep

_SHIPPED = ", ".join(store.pretrained_saes())
SAE = arguments.define(
    "sae", "str", None, f"the directory of an SAE, or one that is shipped: {_SHIPPED}.", shown="DIR"
)
CHECKPOINT = studied.define_checkpoint()
OUTPUT = arguments.define("output", "str", None, "the directory for what is found.", shown="DIR")
SEED = arguments.define("seed", "int", 0, "of the random controls.", least=0)


def main():
    name, checkpoint = arguments.required(SAE), arguments.required(CHECKPOINT)
    output = arguments.required(OUTPUT)
    sae, about, name = saes.load(name)
    model, config, model_name = studied.load(checkpoint)
    store.check_model(about, model)
    view = view_sep(model, task_config(config))
    with machine.output_directory(output) as directory:
        study = study_sae(sae, view, seed=SEED.value)
        print(study.table(), end="\n\n", flush=True)
        about = {**about, "sae": name, "checkpoint": model_name, "control_seed": SEED.value}
        about["validation_lists_seen"] = validation_lists_seen(config)
        page = report.write_sae_report(study, directory, about)
    print(page)
