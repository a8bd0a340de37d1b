"""An exam's answer as a structured report: Comprehensive 3D SR, TID 1500, a group each for exam and breasts."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl
from pydicom.dataset import Dataset

from densityclip import __version__
from densityclip.artifacts import PROBABILITIES, hash_json
from densityclip.deliver.identity import PRODUCT, derived_uid, model_identity, model_version
from densityclip.deliver.source_image import (
    SourceImage,
    copy_patient_and_study,
    latest_moment,
    reference_to,
    write_meta,
)
from densityclip.deliver.wording import NOTICE
from densityclip.density import CATEGORIES, CONCEPT_CODE, VALUE_CODES, WORDING, category_index, is_dense
from densityclip.model.bundle import Bundle
from densityclip.probability.calibrate import Calibration
from densityclip.reasons import Reason, reason_of
from densityclip.records import GENERATED_NOTICE, Status

if TYPE_CHECKING:
    from highdicom.sr import CodedConcept, MeasurementReport, MeasurementsAndQualitativeEvaluations

COMPREHENSIVE_3D = "1.2.840.10008.5.1.4.1.1.88.34"
# Private: no public scheme that we could find has a code for the probability of one of the four categories.
SCHEME = "99DENSITYCLIP"
PROBABILITY_CODES: dict[str, str] = {category: f"PROBABILITY_{category}" for category in CATEGORIES}
_SERIES_NUMBER = 9801
_DECIMALS = 4
# Finding sites, SNOMED CT: what a group is about.
_SITES = {
    "exam": ("63762007", "Both breasts"),
    "L": ("80248007", "Left breast"),
    "R": ("73056007", "Right breast"),
}
_TITLES = {"exam": "exam", "L": "left breast", "R": "right breast"}


@dataclass(frozen=True)
class _Group:
    """One answered row, and the images it rests on."""

    key: str
    row: Mapping[str, Any]
    sources: Sequence[SourceImage]


def structured_report(
    rows: pl.DataFrame, bundle: Bundle, sources: Sequence[SourceImage], earlier: Sequence[Dataset] = ()
) -> Dataset | None:
    """One exam's report: COMPLETE, UNVERIFIED, PRELIMINARY, for research use.

    Nothing in it depends on when or where it is made: the same images, model and predecessor give the same bytes.

    Args:
        rows: Schema `predictions`, all levels of one exam.
        bundle: The model that answered.
        sources: The exam's DICOM images, of one patient and study (`check_one_patient`).
        earlier: Reports that this product made of the exam before. One of the same model about no other than these
            images is named as the predecessor, the last of a chain of them; others are passed over. Where one of them
            is this very report, it is given back.

    Returns:
        The report, ready for `object_bytes`; None where neither the exam nor a breast has an answer.
    """
    used = _used(rows, sources)
    groups = _groups(rows, used)
    if not groups:
        return None
    identity = _identity(rows, bundle, used)
    chain = _chain(bundle, used, earlier)
    for uid, report in chain.items():
        if uid == derived_uid("report", identity, *predecessor_uids(report)):
            return report
    predecessor = _last(chain)
    named = () if predecessor is None else (str(predecessor.SOPInstanceUID),)
    import highdicom as hd
    from highdicom.coding_schemes import CodingSchemeIdentificationItem

    day, time = latest_moment(used)
    report = hd.sr.Comprehensive3DSR(
        evidence=[reference_to(source) for source in used],
        content=_content(groups, _comments(groups, rows, bundle, used), bundle, identity)[0],
        series_instance_uid=_series_uid(used, bundle),
        series_number=_SERIES_NUMBER,
        sop_instance_uid=derived_uid("report", identity, *named),
        instance_number=1 if predecessor is None else int(predecessor.InstanceNumber) + 1,
        manufacturer=PRODUCT,
        manufacturer_model_name=PRODUCT,
        software_versions=__version__,
        series_description="Breast density, research use only",
        is_complete=True,
        is_final=False,
        is_verified=False,
        previous_versions=None if predecessor is None else [predecessor],
        coding_schemes=[
            CodingSchemeIdentificationItem(SCHEME, name="DensityCLIP probabilities", responsible_organization=PRODUCT)
        ],
        content_date=day,
        content_time=time,
        series_date=day,
        series_time=time,
    )
    copy_patient_and_study(used[0], report)
    # highdicom names itself and the moment of writing there: a repeat would differ.
    del report.ContributingEquipmentSequence
    report.InstanceCreationDate, report.InstanceCreationTime = report.ContentDate, report.ContentTime
    write_meta(report)
    return report


def _used(rows: pl.DataFrame, sources: Sequence[SourceImage]) -> list[SourceImage]:
    """The images that were answered, in the order of their UIDs."""
    answered = rows.filter((pl.col("level") == "image") & (pl.col("status") == Status.OK.value))
    ids = set(answered["image_id"].to_list())
    return sorted((source for source in sources if source.image_id in ids), key=lambda source: source.sop_uid)


def _groups(rows: pl.DataFrame, used: Sequence[SourceImage]) -> list[_Group]:
    sides = dict(rows.filter(pl.col("level") == "image").select("image_id", "laterality").iter_rows())
    answered = rows.filter(pl.col("level").is_in(["exam", "breast"]) & (pl.col("status") == Status.OK.value))
    found = {row["laterality"] if row["level"] == "breast" else "exam": row for row in answered.iter_rows(named=True)}
    groups = []
    for key in _SITES:
        mine = [source for source in used if key in ("exam", sides[source.image_id])]
        if key in found and mine:
            groups.append(_Group(key, found[key], mine))
    return groups


def _identity(rows: pl.DataFrame, bundle: Bundle, used: Sequence[SourceImage]) -> str:
    """What the content derives from: the images used, those refused and why, the model with all its settings."""
    return hash_json(
        {
            "images": [source.sop_uid for source in used],
            "refused": sorted(Counter(_refusals(rows)).items()),
            "model": model_identity(bundle),
        }
    )


def _series_uid(used: Sequence[SourceImage], bundle: Bundle) -> str:
    return derived_uid("report series", str(used[0].header.StudyInstanceUID), model_identity(bundle))


def _refusals(rows: pl.DataFrame) -> list[str]:
    refused = rows.filter((pl.col("level") == "image") & (pl.col("status") != Status.OK.value))
    # A second copy changes nothing of the answer, so it makes no other report.
    return [reason for reason in refused["reason"].drop_nulls() if reason != Reason.DUPLICATE.value]


def _comments(groups: Sequence[_Group], rows: pl.DataFrame, bundle: Bundle, used: Sequence[SourceImage]) -> list[str]:
    """Sentences for people whose viewer shows no codes: what it is not, the answers, what was left out."""
    calibration = Calibration.from_dict(bundle.calibration)
    comments = [NOTICE, bundle.generated_note]
    if any(source.generated for source in used):
        comments.append(GENERATED_NOTICE)
    comments += [_in_words(group) for group in groups]
    comments.append(
        f"Probabilities are calibrated on {calibration.patients} patients of the model's calibration part."
        if calibration.calibrated
        else "Probabilities are not calibrated, so no certainty is stated."
    )
    for reason, number in sorted(Counter(_refusals(rows)).items()):
        images = "1 image was" if number == 1 else f"{number} images were"
        comments.append(f"{images} not used ({reason}): {reason_of(reason).sentence}")
    for row in rows.filter(pl.col("status") == Status.ABSTAINED.value).iter_rows(named=True):
        if row["level"] in ("exam", "breast"):
            key = row["laterality"] if row["level"] == "breast" else "exam"
            comments.append(f"No category is stated for the {_TITLES[key]}: {reason_of(row['reason']).sentence}")
    return [comment for comment in comments if comment]


def _in_words(group: _Group) -> str:
    category = str(group.row["predicted"])
    dense = "dense" if is_dense(category) else "not dense"
    return f"{_TITLES[group.key].capitalize()}: category {category}, {WORDING[category]} ({dense})."


def _content(groups: Sequence[_Group], comments: Sequence[str], bundle: Bundle, identity: str) -> "MeasurementReport":
    import highdicom as hd
    from pydicom.sr.codedict import codes

    device = hd.sr.DeviceObserverIdentifyingAttributes(
        uid=derived_uid("device", model_identity(bundle)),
        name=PRODUCT,
        manufacturer_name=PRODUCT,
        model_name=PRODUCT,
        serial_number=model_version(bundle),
    )
    content = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(
            observer_device_context=hd.sr.ObserverContext(codes.DCM.Device, device)
        ),
        procedure_reported=hd.sr.CodedConcept("363679005", "SCT", "Imaging procedure"),
        imaging_measurements=[_measured(group, bundle, identity) for group in groups],
    )
    for comment in comments:
        # TID 1500 is extensible; sentences of the whole document stand under its root.
        content[0].ContentSequence.append(
            hd.sr.TextContentItem(codes.DCM.Comment, comment, hd.sr.RelationshipTypeValues.CONTAINS)
        )
    return content


def _measured(group: _Group, bundle: Bundle, identity: str) -> "MeasurementsAndQualitativeEvaluations":
    """A TID 1501 group: category, four probabilities, and certainty only where probabilities are calibrated."""
    import highdicom as hd
    from pydicom.sr.codedict import codes

    category = str(group.row["predicted"])
    values = [float(group.row[name]) for name in PROBABILITIES]
    numbers = [
        hd.sr.Measurement(probability_code(name), round(value, _DECIMALS), codes.UCUM.NoUnits)
        for name, value in zip(CATEGORIES, values, strict=True)
    ]
    if bundle.calibration["calibrated"]:
        certainty = round(100 * values[category_index(category)], _DECIMALS - 2)
        numbers.append(hd.sr.Measurement(codes.DCM.CertaintyOfFinding, certainty, codes.UCUM.Percent))
    return hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(
            uid=derived_uid("group", identity, group.key), identifier=_TITLES[group.key]
        ),
        algorithm_id=hd.sr.AlgorithmIdentification(
            name=PRODUCT,
            version=model_version(bundle),
            parameters=[f"weights SHA-256 {bundle.model_hash}", f"recipe {bundle.recipe.recipe_hash}"],
            family=codes.DCM.ArtificialIntelligence,
            manufacturer=PRODUCT,
        ),
        finding_sites=[hd.sr.FindingSite(hd.sr.CodedConcept(_SITES[group.key][0], "SCT", _SITES[group.key][1]))],
        measurements=numbers,
        qualitative_evaluations=[
            hd.sr.QualitativeEvaluation(
                hd.sr.CodedConcept(*CONCEPT_CODE, "Breast composition"),
                hd.sr.CodedConcept(VALUE_CODES[category], CONCEPT_CODE[1], WORDING[category].capitalize()),
            )
        ],
        source_images=[
            hd.sr.SourceImageForMeasurementGroup(str(source.header.SOPClassUID), source.sop_uid)
            for source in group.sources
        ],
    )


def probability_code(category: str) -> "CodedConcept":
    """The private code that names the probability of a category."""
    import highdicom as hd

    return hd.sr.CodedConcept(PROBABILITY_CODES[category], SCHEME, f"Probability of {category}, {WORDING[category]}")


def _chain(bundle: Bundle, used: Sequence[SourceImage], earlier: Sequence[Dataset]) -> dict[str, Dataset]:
    """Earlier reports of the same model about these images or a part of them, by their UID."""
    series, uids = _series_uid(used, bundle), {source.sop_uid for source in used}
    return {
        str(report.SOPInstanceUID): report
        for report in earlier
        if str(report.SeriesInstanceUID) == series and evidence_uids(report) <= uids
    }


def _last(chain: Mapping[str, Dataset]) -> Dataset | None:
    """The report that no other one follows."""
    named = {uid for report in chain.values() for uid in predecessor_uids(report)}
    ends = [report for uid, report in chain.items() if uid not in named]
    return max(ends, key=lambda report: (int(report.InstanceNumber), str(report.SOPInstanceUID)), default=None)


def evidence_uids(report: Dataset) -> set[str]:
    """SOP Instance UIDs of the images that a report rests on."""
    return {uid for study in report.get("CurrentRequestedProcedureEvidenceSequence", []) for uid in _instances(study)}


def predecessor_uids(report: Dataset) -> tuple[str, ...]:
    """SOP Instance UIDs of the reports that a report follows."""
    return tuple(uid for study in report.get("PredecessorDocumentsSequence", []) for uid in _instances(study))


def _instances(study: Dataset) -> list[str]:
    return [
        str(instance.ReferencedSOPInstanceUID)
        for series in study.ReferencedSeriesSequence
        for instance in series.ReferencedSOPSequence
    ]
