"""Whether everything that a study reads is there: looked up before a plan is told or anything is made."""

from collections.abc import Iterator
from pathlib import Path

from densityclip.errors import UserError
from densityclip.study_file import Study


def check_paths(study: Study) -> None:
    """Refuse a study whose archives, tables, words or model are missing; all paths that do not exist are named.

    Raises:
        UserError: A path does not exist, or the foundation model's folder holds no model.
    """
    missing = [(key, of, path) for key, of, path in _paths(study) if not path.exists()]
    if missing:
        keys = " and ".join(dict.fromkeys(f"`{key}`" for key, _, _ in missing))
        raise UserError(
            "; ".join(f"{of}: {path} does not exist" for _, of, path in missing),
            f"correct {keys} in the study file, or what is given by --path",
        )
    if study.foundation.path is not None:
        from densityclip.model.biomedclip import model_files

        model_files(study.foundation.path)


def _paths(study: Study) -> Iterator[tuple[str, str, Path]]:
    """Key, what it is of, and path of all that is read."""
    for name, cohort in study.cohorts.items():
        for key, path in (("source", cohort.source), ("table", cohort.table)):
            if path is not None:
                yield key, f"cohort {name}", path
    if study.foundation.path is not None:
        yield "path", "foundation", study.foundation.path
    words = {path for member in study.members() if (path := study.train_config(member).prompts) is not None}
    yield from (("prompts", "training", path) for path in sorted(words))
    if study.baseline_cnn.weights is not None:
        yield "weights", "baseline_cnn", study.baseline_cnn.weights
