"""The report of one sparse autoencoder (SAE): results.json, figures, a page.

Sentences and verdicts are made from the results, whatever they are. Every number of a run with the SAE in
SEP's place has beside it that of SEP itself or of the reconstruction as it is, and of the controls.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from orderscale_jax import figures, files
from orderscale_jax.errors import check_kind
from orderscale_jax.figures.latents import TREATED, median_detector
from orderscale_jax.figures.latents_steering import reversed_at, steering_words
from orderscale_jax.figures.style import STYLE
from orderscale_jax.formatting import count, enumerate_words, number, percent, points_of
from orderscale_jax.report.page import template
from orderscale_jax.sae import SAEStudy, tabulate
from orderscale_jax.sae.fidelity import CORRELATIONS
from orderscale_jax.sae.steering import REASONS, WORDS

AS_GOOD = 0.01  # of the lists: as many come out right
NEAR = 0.9  # cosine from which a vector is found, F1 from which digits have detectors
GROUPS = ("training", "validation", "all")
SPECIAL, DIGITS, DIRECTION = (f"grading.{name}.1" for name in ("special", "digits", "direction"))
TITLES = {
    "latent_activations": "What the special latent follows",
    "grading_curves": "How much it is on, or only that it is on",
    "steering_overview": "Lists reversed by scaling",
    "steering_lines": "What scaling does to the logits",
    "dictionary_match": "Latents and the known dictionary",
}


def write_sae_report(
    study: SAEStudy, directory: str | os.PathLike, about: Mapping[str, Any] | None = None
) -> files.Place:
    """Writes what was found of an SAE to a folder, and returns the place of its page.

    Written are `results.json` (`sae.tabulate` and `about`), every figure as PNG and PDF in `figures/`, and
    `report.html`, which is complete in itself.

    Args:
      study: of the SAE.
      directory: made if need be.
      about: what else is known of the SAE, as JSON can hold it (`sae.load_sae`): `seed`, `model`, ….

    Raises:
      OSError: the folder cannot be written.
    """
    check_kind("study", study, SAEStudy)
    directory = files.place(directory)
    results, images = complete_latents(study, about), {}
    for name, figure in draw_latents(study).items():
        png, _ = figures.save(figure, directory / "figures" / name)
        images[name] = png.read_bytes()
    files.write_json(directory / "results.json", results)
    return files.write_text(directory / "report.html", render_sae_page(study, results, images))


def complete_latents(study: SAEStudy, about: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """`sae.tabulate`, what is said about the SAE, and the scale at which it reverses most lists at once."""
    regions = study.steering.steering.regions
    scales = np.unique([regions.low, *regions.starts[np.isfinite(regions.starts)]])  # where shares rise
    shares = reversed_at(study, scales)
    at = int(shares.argmax())
    most = {"scale": scales[at], "reversed": shares[at]}
    results = files.plain({**tabulate(study), "about": dict(about or {}), "at_one_scale": most})
    return json.loads(json.dumps(results, allow_nan=False))  # every key a text, as it stands in the file


def draw_latents(study: SAEStudy) -> dict[str, Figure]:
    """Every figure that shows something, by file name without suffix."""
    drawn = {
        "latent_activations": figures.latent_activations(study),
        "grading_curves": figures.grading_curves(study),
        "steering_overview": figures.steering_overview(study),
    }
    if chosen := examples(study):
        drawn["steering_lines"] = figures.steering_lines(study, list(chosen))
    return drawn | {"dictionary_match": figures.dictionary_match(study)}


def examples(study: SAEStudy) -> dict[tuple[int, int], str]:
    """Lists to show, each with why: by the width of their regions, and the first that is never reversed."""
    steering, lists = study.steering.steering, study.encoded.view.lists
    width, is_on = steering.regions.width, steering.active
    rows = np.flatnonzero(is_on & (width > 0))
    rows = rows[np.argsort(-width[rows], kind="stable")]
    chosen = {}
    if len(rows):
        chosen[int(rows[0])] = "the list reversed over the widest range of scales"
        chosen.setdefault(int(rows[len(rows) // 2]), "the one with the median range")
    if len(never := np.flatnonzero(is_on & (width == 0))):
        chosen[int(never[0])] = "the first that no scale reverses"
    return {tuple(lists[row].tolist()): why for row, why in chosen.items()}


def render_sae_page(study: SAEStudy, results: Mapping[str, Any], images: Mapping[str, bytes]) -> str:
    """The whole HTML page.

    Args:
      study: of the SAE.
      results: the same as `complete_latents` gives it.
      images: the figures as PNG, by name (`draw_latents`).
    """
    judged, says = verdicts(results), captions(study, results)
    return template("latents.html.jinja", percent=percent, number=number, count=count).render(
        results=results,
        at=lambda key: lookup(results, key),
        title=str(study.encoded.config),
        headline=headline(results),
        special=_special(results),
        judged=judged,
        n_hold=sum(row["verdict"] == "holds" for row in judged),
        pictures=[_picture(name, image, says[name]) for name, image in images.items()],
        groups=[name for name in GROUPS if name in results["patched"]],
        kinds={name: steering_words(study, name).replace("\n", " ") for name in _steered(results)},
        reasons={name: REASONS[name] for name in results["steering"]["reasons"]},
        treated={name: words for name, (words, *_) in TREATED.items()} | {"special": _several(results)},
        n_lists=len(study.encoded.view.lists),
        seen=results["about"].get("validation_lists_seen"),
    )


def lookup(results: Any, key: str) -> Any:
    """What stands at `a.b.0` in the results."""
    for part in key.split("."):
        results = results[int(part) if isinstance(results, Sequence) else part]
    return results


def _picture(name: str, image: bytes, shows: list[str]) -> dict[str, Any]:
    return {
        "name": name,
        "title": TITLES[name],
        "image": base64.b64encode(image).decode("ascii"),
        "inches": int.from_bytes(image[16:20], "big") / STYLE["savefig.dpi"],  # from PNG's header
        "shows": shows,
    }


def _special(results: Mapping[str, Any]) -> str:
    """What the latent is called that is treated as special."""
    latent = results["only_special_binarised"]["latent"]
    return f"the special latent ({latent})" if results["special"] else f"latent {latent} (nearest to special)"


def _several(results: Mapping[str, Any]) -> str:
    """What is called all that are treated as special together."""
    return "the special latents" if len(results["grading"]["latents"]) > 1 else _special(results)


def _correlation(results: Mapping[str, Any]) -> str:
    """The place of the correlation of that latent."""
    return f"latents.correlation.{results['only_special_binarised']['latent']}"


def _steered(results: Mapping[str, Any]) -> list[str]:
    return [name for name in WORDS if results["steering"][name] is not None]


def headline(results: Mapping[str, Any]) -> str:
    """How good the SAE is, and what it has found, in a few sentences."""
    which = next(name for name in ("validation", "all") if name in results["patched"])
    patched, intact = (results["answers"][name][which]["lists_right"] for name in ("patched", "intact"))
    r = number(lookup(results, _correlation(results)), 3)
    found = f"{count(len(results['special']), 'latent')} above {CORRELATIONS['code']}"
    name = _special(results)
    return (
        f"With its reconstruction in SEP's place {percent(patched)} of the {which} lists are right, with SEP "
        f"itself {percent(intact)}. {name[0].upper()}{name[1:]} correlates with α₁ − α₂ at {r} ({found}). "
        f"The matched cosine with the known dictionary is {number(results['dictionary']['mcc'], 3)} on "
        "average."
    )


def verdicts(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Statements about the SAE, each with its verdict, its rule, and the keys of its numbers and of those
    beside them."""
    which = next(name for name in ("validation", "all") if name in results["patched"])
    right = {name: f"answers.{name}.{which}.lists_right" for name in ("patched", "intact")}
    steering, extremes = results["steering"], results["grading"]["extremes"]
    latent, has = results["only_special_binarised"]["latent"], bool(results["special"])
    least = min(extremes[name]["1"][0] for name in ("digits", "direction"))
    is_controlled = has and results["grading"]["digit_latents"] > 0
    controls = "before", "other_latent", "random_direction"
    order, f1 = (abs(results["dictionary"][name]) for name in ("order_cosine", "mean_f1"))

    def row(key, statement, holds, rule, measured, beside):
        verdict = "not judged" if holds is None else "holds" if holds else "does not hold"
        said = {"key": key, "statement": statement, "verdict": verdict, "rule": rule}
        return said | {"measured": measured, "beside": beside, "is_cosine": not beside}

    return [
        row(
            "fidelity",
            "The reconstruction in SEP's place keeps the answers right",
            lookup(results, right["patched"]) >= lookup(results, right["intact"]) - AS_GOOD,
            f"at most {points_of(AS_GOOD)} of the {which} lists fewer are right than with SEP itself",
            {f"{which} lists right, reconstruction in SEP's place": right["patched"]},
            {"baseline: SEP itself": right["intact"]},
        ),
        row(
            "special",
            "A latent is special: it follows α₁ − α₂",
            has,
            f"the size of a correlation is above {CORRELATIONS['code']}, as published",
            {f"correlation with α₁ − α₂, of latent {latent}, whose is the largest": _correlation(results)},
            {},
        ),
        row(
            "dictionary",
            "The known vectors are found: P₁ − P₂, and the digits",
            order >= NEAR and f1 >= NEAR,
            f"the cosine of P₁ − P₂ and a latent, and the mean F1 of digits' detectors, are at least {NEAR}",
            {
                "cosine of P₁ − P₂ and the latent nearest to it": "dictionary.order_cosine",
                "mean F1 of the digits' detectors": "dictionary.mean_f1",
            },
            {},
        ),
        row(
            "grading",
            "How much the special latent is on matters, not only that it is on",
            lookup(results, f"{SPECIAL}.lists_right") < least if is_controlled else None,
            "with one value where it is on fewer lists are right than in any draw of the two controls",
            {f"lists right, one value of {_several(results)}": f"{SPECIAL}.lists_right"},
            {
                "baseline: activations as they are": "grading.graded.lists_right",
                "control: digits' latents, on as often": f"{DIGITS}.lists_right",
                "control: as large a change in a random direction": f"{DIRECTION}.lists_right",
            },
        ),
        row(
            "steering",
            "Scaling the special latent reverses lists",
            steering["alone"] > max(steering[name] for name in controls) if has else None,
            "more lists are reversed at some scale than unsteered, and than by scaling either control (of "
            "random ones the mean)",
            {f"lists reversed at some scale of latent {latent}": "steering.alone"},
            {
                "baseline: unsteered": "steering.before",
                "control: largest other latent": "steering.other_latent",
                "control: random vector of that length": "steering.random_direction",
            },
        ),
    ]


def captions(study: SAEStudy, results: Mapping[str, Any]) -> dict[str, list[str]]:
    """By figure, what it shows in a few sentences."""
    name, latents = _special(results), results["latents"]
    latent = results["only_special_binarised"]["latent"]
    r, on = number(latents["correlation"][latent], 3), percent(latents["firing"][latent])
    activations = [
        f"Left and right: {name}. It is on in {on} of all lists, and correlates at {r} with α₁ − α₂."
    ]
    if found := median_detector(study):
        activations.append(
            f"Middle: latent {found[1]}, the detector of digit {found[0]}, whose F1 of "
            f"{number(results['dictionary']['f1'][found[0]], 3)} is the median one."
        )
    steering, differ = results["steering"], results["steering"]["lists_of_two_digits"]
    share = {kind: percent(steering[kind]) for kind in _steered(results)}
    most, dictionary = results["at_one_scale"], results["dictionary"]
    at_one = "At no single scale of the latent are more reversed than unsteered."
    if most["reversed"] > steering["before"]:
        percentage, scale = percent(most["reversed"]), number(most["scale"])
        at_one = f"The most at any single scale of the latent are {percentage}, at {scale}."
    shown = [f"{d1}, {d2} is {why}" for (d1, d2), why in examples(study).items()]
    drawn = f"Of the lists in which the latent is on, {enumerate_words(shown)}." if shown else ""
    symbols, firing = np.array(latents["symbols"]), np.array(latents["firing"])
    return {
        "latent_activations": activations,
        "grading_curves": _on_off(results),
        "steering_overview": [
            f"Of {differ:,} lists of two different digits, {share['alone']} are reversed at some scale of "
            f"{name} from 0 to 10, {share['before']} unsteered (baseline), {share['other_latent']} when the "
            f"largest other latent is scaled and {share['random_direction']} when a random vector of that "
            "length is (controls).",
            f"P₁ − P₂ added to the reconstruction, by −2 to 2, reverses {share['along_positions']}, random "
            f"vectors of its length {share['along_random']}. {at_one}",
        ],
        "steering_lines": [
            drawn,
            "o1's logits are straight lines in the scale. In o2 the weights of SEP and o1 move with it, too.",
        ],
        "dictionary_match": [
            f"Matched one to one, the latents' cosine with the digits' vectors is "
            f"{number(dictionary['mcc_digits'], 3)} on average. The latent nearest to P₁ − P₂ is "
            f"{dictionary['order_latent']}, with a cosine of {number(dictionary['order_cosine'], 3)}.",
            f"The mean F1 of the digits' detectors is {number(dictionary['mean_f1'], 3)}. Of "
            f"{count(len(symbols), 'latent')} {int((symbols == 1).sum())} detect one digit, and "
            f"{int((firing == 0).sum())} are on in no list.",
        ],
    }


def _on_off(results: Mapping[str, Any]) -> list[str]:
    """What is left when latents have one value where they are on."""
    grading = results["grading"]

    def of(found):
        return f"{percent(found['lists_right'])} right and {percent(found['reversed'])} reversed"

    return [
        f"With one value of {_several(results)} where on, lists are {of(grading['special']['1'])}; "
        f"with all activations as they are (baseline) {of(grading['graded'])}, with SEP itself "
        f"{of(results['answers']['intact']['all'])}.",
        f"Controls: with one value of digits' latents that are on as often {of(grading['digits']['1'])}"
        f"{' (there are none)' * (not grading['digit_latents'])}, with as large a change in a random "
        f"direction {of(grading['direction']['1'])}. With all latents on or off {of(grading['every']['1'])}. "
        "Right are shares of all lists, reversed of those of two different digits.",
    ]
