"""What a study will do, how much that is, and what of it is done."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from densityclip.imaging.plan import said_bytes, said_seconds
from densityclip.records import number_of
from densityclip.steps import INDEX, PREDICTIONS
from densityclip.study.costs import (
    evaluate_seconds,
    explain_seconds,
    local_seconds,
    mapped_images,
    stand_in_seconds,
)
from densityclip.study.measure import Speeds
from densityclip.study.members import about_of, shuffled_folder
from densityclip.study.question import few_patients
from densityclip.study.sizes import Size, size_of, validated_by
from densityclip.study.state import SPLITS, STATE, state_file
from densityclip.study.telling import in_words
from densityclip.study_file import Member, Study


@dataclass(frozen=True)
class Planned:
    """One step of a study.

    Attributes:
        step: Its name.
        what: What it does.
        seconds: How long it will take; None where that is not known.
        done: Whether an earlier run has done it.
    """

    step: str
    what: str
    seconds: float | None = None
    done: bool = False

    def row(self) -> tuple[str, str, str]:
        """It as a row of a table."""
        return self.step, self.what, "done" if self.done else "" if self.seconds is None else said_seconds(self.seconds)


def plan(study: Study, out: Path, *, speeds: Speeds | None = None, workers: int = 1) -> list[Planned]:
    """The steps of a study in their order.

    A step counts as done when a run left its state; whether it reads the same as then, only a run can tell.

    Args:
        study: The study.
        out: Its folder, which need not exist.
        speeds: Of `measure`; without them no time is told.
        workers: Processes that generate and prepare.
    """
    sizes = {name: size_of(study, name, out) for name in study.cohorts}
    speeds = speeds or Speeds()
    lines = [*_cohort_lines(study, sizes, speeds, workers), Planned("split", "patients to parts")]
    if study.foundation.stand_in is not None:
        taught = study.foundation.stand_in
        what = f"generated stand-in: {taught.exams} exams, {taught.steps} steps"
        lines.append(Planned("foundation", what, stand_in_seconds(study, speeds, workers)))
    elif study.foundation.path is None:
        lines.append(Planned("foundation", "the small model with random weights"))
    lines += [_training(study, member, sizes, speeds) for member in study.members()]
    lines += [_prediction(study, name, sizes, speeds) for name in (*study.arms, *study.baselines)]
    lines.append(Planned("predictions", PREDICTIONS))
    resamples = f"{study.evaluation.resamples:,} resamples over patients"
    lines.append(Planned("evaluate", resamples, evaluate_seconds(study, sizes, speeds)))
    adapted = "what labelled exams of another site would bring"
    lines.append(Planned("local", adapted, local_seconds(study, speeds)))
    mapped = mapped_images(study, sizes)
    maps = "maps" if mapped is None else f"maps of about {number_of(round(sum(mapped.values())), 'image')}"
    for arm in study.explain.arms:
        if study.explain.shuffled_labels:
            lines.append(_on_shuffled_labels(study, arm, sizes, speeds))
        lines.append(Planned(f"explain {arm}", maps, explain_seconds(study, arm, sizes, speeds)))
    lines.append(Planned("report", "report.html"))
    return list(_marked(study, out, lines))


def summary(
    lines: list[Planned], study: Study, out: Path, *, speeds: Speeds | None = None, at_once: int = 1
) -> list[str]:
    """What the whole comes to, in sentences.

    Args:
        lines: Of `plan`.
        study: The study.
        out: Its folder.
        speeds: As for `plan`; of archives that are not indexed, times of a thousand images follow from them.
        at_once: Trainings at the same time.
    """
    sizes = {name: size_of(study, name, out) for name in study.cohorts}
    known = [size for size in sizes.values() if size is not None]
    said = [_trainings(study)]
    if known:
        images, exams = (
            number_of(sum(values), noun)
            for values, noun in (([size.total for size in known], "image"), ([size.exams for size in known], "exam"))
        )
        said.append(f"{exams}, {images}; the caches take {said_bytes(sum(s.bytes for s in known))}.")
    unknown = [name for name, size in sizes.items() if size is None]
    if unknown:
        said.append(_without_index(study, unknown, speeds or Speeds()))
    index = out / "cohorts" / study.primary.cohort / INDEX
    if index.is_file():
        said += [sentence for sentence in (few_patients(study, index, out / SPLITS),) if sentence]
    left = _left([line for line in lines if not line.done], at_once)
    timeless = (line.step for line in lines if line.seconds is None and not line.done)
    # The trainings of an arm are one name here.
    without = list(dict.fromkeys(step.partition(" fold ")[0] for step in timeless))
    if left:
        beside = f", with {at_once} trainings at once" if at_once > 1 else ""
        said.append(
            f"About {said_seconds(left)} for the steps that have a time{beside}: an estimate from a few exams, "
            "training steps and resamples measured on this machine just now."
            + (f" Without a time, and on top of it: {', '.join(without)}." if without else "")
        )
    return said


def _left(lines: list[Planned], at_once: int) -> float:
    """Seconds of some steps, of which trainings and their predictions run beside each other."""
    beside = [line.seconds or 0.0 for line in lines if line.step.startswith(("train ", "predict "))]
    alone = sum(line.seconds or 0.0 for line in lines) - sum(beside)
    # No training is done sooner than it takes, however many run beside it.
    return alone + max(sum(beside) / at_once, max(beside, default=0.0))


def _trainings(study: Study) -> str:
    """How many trainings of each sort there are."""
    arms = len([member for member in study.members() if member.arm in study.arms])
    counts = [f"{number_of(arms, 'training')} of arms", f"{len(study.members()) - arms} of baselines"]
    if study.explain.shuffled_labels:
        counts.append(f"{len(study.explain.arms)} on shuffled labels for the maps")
    if study.foundation.stand_in is not None:
        counts.append("that of the generated stand-in")
    return f"{', '.join(counts[:-1])} and {counts[-1]}."


def _without_index(study: Study, names: list[str], speeds: Speeds) -> str:
    """What is not known of archives before they are indexed, and what is known of a thousand of their images."""
    several = len(names) > 1
    said = (
        f"{', '.join(names)} {'are' if several else 'is'} not indexed yet, so how many images "
        f"{'they have' if several else 'it has'} is not known: preparing, predicting and scoring "
        f"{'them' if several else 'it'} have no time here"
    )
    learned = [name for name in names if study.cohorts[name].role == "internal"]
    said += ", nor have the validations during training." if learned else "."
    known = [
        f"preparing {name} takes about {said_seconds(1000 * speeds.image[name])} with one worker"
        for name in names
        if name in speeds.image
    ]
    if speeds.scored is not None:
        number = len([member for member in study.members() if member.arm != "majority"])
        known.append(f"predicting by all {number} trainings {said_seconds(1000 * number * speeds.scored)}")
        if learned:
            known.append(f"one validation {said_seconds(1000 * speeds.scored)} of those in the validation part")
    told = f" For every 1,000 images {', '.join(known)}." if known else ""
    return f"{said}{told} Ask again with --dry-run when the index is there: the study may be stopped and gone on with."


def _cohort_lines(study: Study, sizes: dict[str, Size | None], speeds: Speeds, workers: int) -> Iterator[Planned]:
    for name, cohort in study.cohorts.items():
        size = sizes[name]
        if cohort.generate is not None:
            made = cohort.generate
            each = speeds.exam.get(name)
            seconds = None if each is None else each * made.exams / workers
            yield Planned(f"phantom {name}", f"{number_of(made.exams, 'exam')} of site {made.site}", seconds)
        use = "to train, select, calibrate and test" if cohort.role == "internal" else "only scored"
        yield Planned(f"index {name}", f"{use}{f'; institution {cohort.institution}' if cohort.institution else ''}")
        what, seconds = "pixels to the cache", None
        if size is not None:
            what = f"{number_of(size.total, 'image')}, {said_bytes(size.bytes)}"
            each = speeds.image.get(name)
            seconds = None if each is None else each * size.total / workers
        yield Planned(f"prepare {name}", what, seconds)


def _training(study: Study, member: Member, sizes: dict[str, Size | None], speeds: Speeds) -> Planned:
    if member.arm in ("majority", "histogram"):
        return Planned(f"train {member.title}", "baseline without a network")
    config = study.train_config(member)
    if member.arm == "zero-shot":
        return Planned(f"train {member.title}", "baseline: nothing is trained")
    changed = study.arms[member.arm].training if member.arm in study.arms else {}
    words = "".join(f"; {key} {in_words(value)}" for key, value in changed.items())
    what = f"{', '.join(config.modalities)}; {config.steps} steps of {config.batch_size}{words}"
    per_image = speeds.convolved if member.arm == "cnn" else speeds.trained
    seconds = _times(per_image, config.steps * config.batch_size)
    validated = validated_by(study, member, sizes)
    looks = _times(speeds.scored, None if validated is None else validated * config.steps // config.validate_every)
    return Planned(
        f"train {member.title}",
        what if member.arm in study.arms else f"baseline; {what}",
        None if seconds is None else seconds + (looks or 0.0),
    )


def _on_shuffled_labels(study: Study, arm: str, sizes: dict[str, Size | None], speeds: Speeds) -> Planned:
    first, *_ = study.members_of(arm)
    like = _training(study, first, sizes, speeds)
    return Planned(f"{like.step} on shuffled labels", "for the maps alone", like.seconds)


def _prediction(study: Study, name: str, sizes: dict[str, Size | None], speeds: Speeds) -> Planned:
    members = study.members_of(name)
    by = "once" if len(members) == 1 else f"by each of {len(members)} trainings"
    each = [_times(speeds.scored, size.prepared if size else None) for size in sizes.values()]
    known = [seconds for seconds in each if seconds is not None]
    # Without a network the answer takes no time to speak of.
    seconds = len(members) * sum(known) if len(known) == len(each) and name != "majority" else None
    return Planned(f"predict {name}", f"every image of {', '.join(sizes)}, {by}", seconds)


def _times(each: float | None, number: int | None) -> float | None:
    return None if each is None or number is None else each * number


def _marked(study: Study, out: Path, lines: list[Planned]) -> Iterator[Planned]:
    trained = {f"train {member.title}": about_of(member, out / "arms" / member.folder) for member in study.members()}
    for arm in study.explain.arms:
        first, *_ = study.members_of(arm)
        trained[f"train {first.title} on shuffled labels"] = about_of(first, out / "arms" / shuffled_folder(arm))
    predicted = {
        f"predict {name}": [
            state_file(out / STATE, f"predict {member.title} {cohort}")
            for member in study.members_of(name)
            for cohort in study.cohorts
        ]
        for name in (*study.arms, *study.baselines)
    }
    for line in lines:
        file = trained.get(line.step, state_file(out / STATE, line.step))
        done = all(path.is_file() for path in predicted.get(line.step, [file]))
        yield Planned(line.step, line.what, line.seconds, done)
