"""What the report says of a study besides its figures."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from densityclip import __version__
from densityclip.artifacts import git_revision, read_json, read_table
from densityclip.datasets.splits import DEFAULT_SHARES, same_institution
from densityclip.records import number_of
from densityclip.study.members import is_bundle, read_about
from densityclip.study.state import study_hash
from densityclip.study_file import Member, Study

# An arm that differs in so few settings is told by them.
_FEW = 4
_LOSS_WORDS = {
    "infonce": "An image's own caption alone is its positive (infonce).",
    "multi-positive": "Captions of equal density are positives whatever modality they name (multi-positive).",
    "class-prompt": "An image is compared with the four categories' prompts, as in prediction (class-prompt).",
    "ordinal": "Captions of equal density are positives, those of the neighbouring categories a little (ordinal).",
}
_WEIGHT_WORDS = {
    "none": "All modalities count alike.",
    "fixed": "Modalities have fixed weights.",
    "moving-average": (
        "A modality's weight follows a moving average of how far its images lag behind others of their category."
    ),
    "group-dro": "A modality's weight grows while its images lag behind others of their category (group DRO).",
    "uncertainty": "A modality's weight is learned as an uncertainty.",
}
INTERNAL, EXTERNAL = "internal test", "external"
SAME_INSTITUTION = "same institution, overlap not excluded"


def kinds_of(study: Study, indexes: Mapping[str, Path]) -> dict[str, str]:
    """What each cohort is headed: a cohort of an institution that was trained on is never called external.

    Args:
        study: The study.
        indexes: Path of the index of each cohort.

    Returns:
        Cohort to `internal test`, `external` or `same institution, overlap not excluded`.
    """
    cohorts = {name: read_table(path, "index").select("institution") for name, path in indexes.items()}
    internal = {name for name, cohort in study.cohorts.items() if cohort.role == "internal"}
    pairs = [{pair.first, pair.second} for pair in same_institution(cohorts)]
    related = {name for pair in pairs if pair & internal for name in pair}
    return {
        name: INTERNAL if name in internal else SAME_INSTITUTION if name in related else EXTERNAL
        for name in study.cohorts
    }


def described(study: Study, out: Path, models: Mapping[Member, Path], kinds: Mapping[str, str]) -> dict[str, Any]:
    """The study as `report.study_report` takes it."""
    notes = {}
    for name, cohort in study.cohorts.items():
        if cohort.generate is not None:
            site = read_json(out / "cohorts" / name / "exams" / "site.json", "densityclip phantom")
            notes[name] = site["class_mix_note"]
    firsts = {name: study.members_of(name)[0] for name in (*study.arms, *study.baselines)}
    return {
        "name": study.name,
        "title": study.title,
        "generated": study.generated,
        "class_mix_notes": notes,
        "model_note": _model_note(study),
        "arms": {name: _sentence(study, member, models[member]) for name, member in firsts.items()},
        "trained": {name: list(study.train_config(member).modalities) for name, member in firsts.items()},
        "baselines": list(study.baselines),
        "members": {
            name: [{"fold": member.fold, "seed": member.seed} for member in study.members_of(name)] for name in firsts
        },
        "kinds": dict(kinds),
        "redistribute": {name: cohort.redistribute is not False for name, cohort in study.cohorts.items()},
        "methods": [*_methods(study), *_stopped(models)],
        "primary": study.question,
    }


def _model_note(study: Study) -> str:
    if study.foundation.path is not None:
        return ""
    if study.foundation.stand_in is not None:
        return (
            "The model is the generated stand-in: a small one of BiomedCLIP's shape, taught before on generated "
            "exams of other patients with captions of view, side, modality and thickness, never density. Nothing "
            "here measures BiomedCLIP itself."
        )
    return (
        "The model is a small stand-in of BiomedCLIP's shape that started from random weights, because the "
        "pretrained weights do not come with the software: nothing here measures BiomedCLIP itself."
    )


def _sentence(study: Study, member: Member, folder: Path) -> str:
    """What an arm or baseline is, in a sentence."""
    if member.arm in study.baselines:
        return f"baseline: {_baseline_words(study, member)}"
    config = study.train_config(member)
    first = study.members_of(next(iter(study.arms)))[0]
    others = study.train_config(first).model_dump()
    differs = {name: value for name, value in config.model_dump().items() if value != others[name]}
    # Arms of other images say how many; of the rest, what differs can be read at once.
    if differs and "modalities" not in differs and len(differs) <= _FEW:
        return f"as {first.arm}, but " + ", ".join(
            f"{name.replace('_', ' ')} {in_words(differs[name])}" for name in differs
        )
    data = read_about(member, folder)["data"]
    seeds = sorted({one.seed for one in study.members_of(member.arm)})
    each = "" if study.folds == 1 else " (in the first fold)"
    return (
        f"trained on {', '.join(config.modalities)}: "
        f"{number_of(data['images'], 'image')} of {number_of(data['patients'], 'patient')}{each}, "
        f"adaptation {config.adaptation} with the text tower {config.text_tower}, loss {config.loss}, "
        f"{config.steps} steps of {config.batch_size} images from a {config.sampler} sampler, "
        f"{config.class_weights} class weights, {config.modality_weights} modality weights, "
        f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
    )


def in_words(value: Any) -> str:
    """A setting as a person writes it."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {in_words(one)}" for key, one in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)


def _baseline_words(study: Study, member: Member) -> str:
    from densityclip.training.histogram import BINS

    config, cnn = study.train_config(member), study.baseline_cnn
    pretrained = "from random weights, as no pretrained ones were given" if cnn.weights is None else "pretrained"
    trained = (
        f"by cross-entropy, {config.steps} steps of {config.batch_size} images as they come, the rate rising to "
        f"{config.rate:g}"
    )
    return {
        "majority": "the frequencies of the categories in the training part, the same answer for every image",
        "histogram": (
            f"a multinomial logistic regression on the grey levels inside the breast ({BINS} bins, mean, spread, "
            "quantiles), its size and its modality; validation chose the penalty"
        ),
        "zero-shot": "the model as it was before any density, asked with the same words",
        "linear-probe": (
            f"the same words and loss as {study.primary.contrast[0]}, but only the projections of the towers and the "
            "temperature are trained"
        ),
        "cross-entropy": f"the same image tower with a linear head and no words, trained {trained}",
        "cnn": f"{cnn.name} of timm, {pretrained}, trained {trained}",
    }[member.arm]


def _methods(study: Study) -> list[str]:
    """What was done, as far as it is the same in every arm."""
    config = study.train_config(study.members()[0])
    recipe = study.resolved_recipe()
    lines = [
        _split_words(study),
        f"Images: the breast alone, chest wall to one side, {recipe.height} x {recipe.width} px, grey levels "
        f"{recipe.intensity}; of a DBT volume the slices {recipe.dbt_slices}, whose probabilities are averaged.",
        "Loss: contrastive between images and captions in BI-RADS words, each image weighed by its category and "
        f"its modality. {_LOSS_WORDS[config.loss]} {_WEIGHT_WORDS[config.modality_weights]} "
        "What an arm does differently stands with it.",
        "The checkpoint kept is the one with the best macro AUC, of uncalibrated probabilities, in the worst "
        f"trained modality of the validation part, looked at every {config.validate_every} steps.",
        "Probabilities: the class frequencies of the training part are put back, then one temperature, fitted on "
        "the calibration part, and one more for each of breast, exam and patient where it has patients enough. "
        "Validation chose how breasts make an exam. Other sites are scored with the model as it is.",
    ]
    if study.baselines:
        lines.append(
            f"Baselines ({', '.join(study.baselines)}) have the splits, images, augmentation, length and way of "
            f"selection of {study.primary.contrast[0]}, and one temperature fitted on the calibration part; the bare "
            "frequencies have none."
        )
    return lines


def _stopped(models: Mapping[Member, Path]) -> list[str]:
    """A sentence where trainings did not run to their end: their arm had fewer steps than the others."""
    ended = {member.title: read_about(member, folder).get("stopped_after") for member, folder in models.items()}
    told = [f"{title} after {number_of(steps, 'step')}" for title, steps in ended.items() if steps is not None]
    return (
        [f"Stopped by a loss that was not finite, and taken at the best validation before: {'; '.join(told)}."]
        if told
        else []
    )


def _split_words(study: Study) -> str:
    shares = ", ".join(f"{part} {100 * share:.0f}%" for part, share in DEFAULT_SHARES.items())
    drawn = "Patients of internal cohorts were split, stratified by density and balanced over modality and site"
    used = (
        "Validation chose the checkpoint and the rule for exams, calibration fitted the temperatures; test and other "
        "sites were only scored."
    )
    if study.folds == 1:
        return f"{drawn}: {shares} (seed {study.split_seed}). {used}"
    return (
        f"{drawn} (seed {study.split_seed}): {100 * DEFAULT_SHARES['test']:.0f}% are the test in every fold, each of "
        f"the others validates in one of {study.folds} folds. {used} The answer of an arm is the mean of the "
        "probabilities of its trainings."
    )


def provenance_of(study: Study, models: Mapping[Member, Path], registered: Mapping[str, Any]) -> dict[str, Any]:
    """Versions, hashes and what was asked for before anything was trained."""
    abouts = {member: read_about(member, folder) for member, folder in models.items()}
    recipe = study.resolved_recipe()
    foundation = next(about["training"]["foundation"] for member, about in abouts.items() if is_bundle(member))
    return {
        "densityclip": __version__,
        "git_revision": git_revision(),
        "study": study_hash(study),
        "registration": dict(registered),
        "recipe": recipe.to_dict() | {"hash": recipe.recipe_hash},
        "foundation": foundation,
        "models": {
            member.title: {
                "weights_sha256": _weights(member, about),
                "selected": about["selected"],
                "data": about["data"],
            }
            for member, about in abouts.items()
        },
    }


def _weights(member: Member, about: Mapping[str, Any]) -> str | None:
    """Hash of a member's weights; a baseline without a network has none."""
    name = "open_clip_model.safetensors" if is_bundle(member) else "weights.safetensors"
    found: str | None = about["hashes"].get(name)
    return found
