"""The model card of a published bundle: Markdown from its provenance and files, and nothing that these do not say."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from densityclip import __version__
from densityclip.density import CATEGORIES, WORDING
from densityclip.evaluation.metrics import METRICS
from densityclip.records import MODALITIES, number_of
from densityclip.report.beside import find_whole
from densityclip.report.counts import label, text
from densityclip.report.probability_tables import whole_sets
from densityclip.report.tables import LEVELS, MAIN_METRICS, kind_of, number, result_table

if TYPE_CHECKING:
    from densityclip.model.bundle import Bundle

_TAGS = ("open_clip", "clip", "medical-imaging", "mammography", "breast-density", "bi-rads", "densityclip")
_ADAPTATIONS = {
    "full": "all weights were trained",
    "lp-ft": "its projections were trained first, then all weights",
    "lora": "low-rank matrices (LoRA) were trained and merged into the weights",
    "linear-probe": "its projections alone were trained",
    "zero-shot": "nothing was trained: its weights are the foundation model's",
}
_MODALITY_WORDS = {"DM": "digital mammography", "s2D": "synthesized 2D", "DBT": "tomosynthesis"}
# Settings that say what kind of training it was; the rest stands in provenance.json.
_SETTINGS = (
    *("adaptation", "text_tower", "loss", "class_weights", "modality_weights", "sampler", "steps", "batch_size"),
    *("learning_rate", "layer_decay", "weight_decay", "ema_decay", "interpolation", "plain_caption_share", "augment"),
    *("fold", "seed", "precision"),
)
# What a provenance may be silent of: only a study names cohorts.
_DATA: dict[str, Any] = {"cohorts": {}, "images_generated": 0, "training_prior": {}}
_MARKUP = re.compile(r"([\\`*_{}\[\]<>#|~$&])")


def model_card(
    bundle: "Bundle",
    *,
    licence: str | None = None,
    metrics: Mapping[str, Any] | None = None,
    arm: str | None = None,
    kinds: Mapping[str, str] | None = None,
) -> str:
    """Write the card.

    Args:
        bundle: The bundle as it is published.
        licence: The model's licence, as the hub names it, where its publisher stated one.
        metrics: Content of `metrics.json`, of this model alone; without it the card says that there is no evaluation.
        arm: The arm of a study that this model is a training of: then `metrics` is the study's, and the card gives the
            arm's figures, and says where they are the mean of several trainings, of which this model is one.
        kinds: What the study heads each cohort.

    Returns:
        Markdown with YAML front matter, as model hubs read it.
    """
    from densityclip.model.biomedclip import BIOMEDCLIP, read_config

    model = read_config(bundle.folder)["model_cfg"]
    provenance, data = bundle.provenance, _DATA | bundle.provenance["data"]
    training = provenance.get("training", {})
    config = training.get("config", {})
    if metrics is not None and arm is not None:
        metrics = dict(metrics) | {"cells": [cell for cell in metrics["cells"] if cell["arm"] == arm]}
    return _render(
        front_matter=_front_matter(licence),
        licence=licence,
        generated_note=bundle.generated_note,
        generated_only=bundle.generated_only,
        modalities=provenance.get("modalities", []),
        unlearned=[name for name in MODALITIES if name not in provenance.get("modalities", [])],
        unseen=[name for name in CATEGORIES if data.get("images_by_category", {}).get(name) == 0],
        wording=WORDING,
        modality_words=_MODALITY_WORDS,
        vision=model["vision_cfg"],
        text=model["text_cfg"],
        recipe=bundle.recipe,
        biomedclip=BIOMEDCLIP,
        biomedclip_shaped=_biomedclip_shaped(model),
        foundation=training.get("foundation"),
        origin=provenance.get("foundation", {}),
        adaptation=_adaptation(config),
        settings=[(label(name), text(config[name])) for name in _SETTINGS if config.get(name) is not None],
        data=data,
        categories=_counted(data.get("images_by_category", {}), data.get("images")),
        kinds=_counted(data.get("images_by_modality", {}), data.get("images")),
        calibration=bundle.calibration,
        selected=provenance.get("selected"),
        stopped_after=provenance.get("stopped_after"),
        cells={level: _figures(metrics, level, kinds) for level in LEVELS} if metrics else {},
        arm=arm,
        trainings=max((cell.get("members", 1) for cell in metrics["cells"]), default=1) if metrics else 1,
        own=_own_figures(metrics, config, kinds) if metrics and arm is not None else [],
        bootstrap=(metrics or {}).get("bootstrap", {}),
        metric_titles=[METRICS[name] for name in MAIN_METRICS],
        opens_plainly=_opens_plainly(bundle),
        provenance=provenance,
        version=__version__,
    )


def _biomedclip_shaped(model: Mapping[str, Any]) -> bool:
    vision, words = model["vision_cfg"], model["text_cfg"]
    found = (model["embed_dim"], vision.get("timm_model_name"), words.get("context_length"), words.get("hf_proj_type"))
    return found == (512, "vit_base_patch16_224", 256, "mlp")


def _adaptation(config: Mapping[str, Any]) -> str:
    name = config.get("adaptation")
    frozen = config.get("text_tower") == "frozen" and name != "zero-shot"
    said = _ADAPTATIONS.get(str(name), "")
    return f"{said}; the text tower stayed as it was" if said and frozen else said


def _front_matter(licence: str | None) -> str:
    import yaml

    stated = {"license": licence} if licence else {"license": "other", "license_name": "not-stated"}
    content = {
        **stated,
        "library_name": "open_clip",
        "pipeline_tag": "zero-shot-image-classification",
        "tags": list(_TAGS),
    }
    return str(yaml.safe_dump(content, sort_keys=False)).rstrip()


def _opens_plainly(bundle: "Bundle") -> bool:
    """Whether open_clip's own loader builds the image tower at the size of this bundle."""
    from densityclip.model.biomedclip import read_config
    from densityclip.model.towers import built_size

    return built_size(read_config(bundle.folder)) == (bundle.recipe.height, bundle.recipe.width)


def _number_of(number: int | None, noun: str) -> str:
    return f"an unknown number of {noun}s" if number is None else number_of(number, noun)


def _counted(counts: Mapping[str, int], total: int | None) -> list[tuple[str, str, str]]:
    return [(name, text(number), f"{100 * number / total:.1f}%" if total else "–") for name, number in counts.items()]


def _figures(metrics: Mapping[str, Any], level: str, kinds: Mapping[str, str] | None) -> list[list[str]]:
    rows = result_table(metrics, level=level, metric_names=MAIN_METRICS)
    # By patient, the rows are the patients.
    places = ("site", "modality", "n", *(() if level == "patient" else ("n_patients",)))
    return [
        [
            text(row["cohort"]),
            kind_of(row, kinds) or "–",
            *(text(row[name]) for name in places),
            *(row[name] for name in MAIN_METRICS),
        ]
        for row in rows
    ]


def _own_figures(
    metrics: Mapping[str, Any], config: Mapping[str, Any], kinds: Mapping[str, str] | None
) -> list[list[str]]:
    """What this very training reached on whole cohorts, where the arm has several: points, without intervals."""
    found = []
    for cohort, part in whole_sets(metrics):
        cell = find_whole(metrics, metrics["cells"][0]["arm"], cohort, part, "image")
        members = cell.get("each_member", []) if cell is not None else []
        mine = [one for one in members if (one["fold"], one["seed"]) == (config.get("fold"), config.get("seed"))]
        if len(members) > 1 and mine:
            place = {"cohort": cohort, "part": part}
            figures = (number(mine[0]["metrics"][name]) for name in MAIN_METRICS)
            found.append([text(cohort), kind_of(place, kinds) or "–", text(mine[0]["n"]), *figures])
    return found


def _escaped(value: Any) -> Any:
    """Text from outside, such as a cohort's name, as Markdown that shows it and does nothing else."""
    from markupsafe import Markup

    if isinstance(value, str) and not isinstance(value, Markup):
        return _MARKUP.sub(r"\\\1", value.replace("\r", " ").replace("\n", " "))
    return value


def _render(**values: Any) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("densityclip.report", "templates"),
        # A card is Markdown, so values are escaped as Markdown; `raw` marks what stands in code.
        autoescape=False,
        finalize=_escaped,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"raw": Markup, "plain": text}
    environment.globals["counted"] = _number_of
    return environment.get_template("model_card.md.j2").render(**values)
