"""A folder of maps: the names of its files, and the removal of what an earlier run left in it."""

from itertools import product
from pathlib import Path

from densityclip.artifacts import disk_error
from densityclip.explain.methods import METHODS
from densityclip.explain.stored import is_stored
from densityclip.explain.targets import TARGETS

CONTENT, MANIFEST = "explain.json", "explain.manifest.json"
FIGURES, PAIRS, SHEET = "figures.csv", "pairs.csv", "sheet"


def picture_name(stem: str, key: tuple[str, str], first: tuple[str, str]) -> str:
    """File of a picture: the first method and target have the plain name, others say which they are."""
    return f"{stem}.png" if key == first else f"{stem}-{key[0]}-{key[1]}.png"


def remove_earlier(folder: Path) -> None:
    """Remove the maps, pictures and figures of an earlier run, so that no file is of another request than its fellows.

    A run that was killed left no list of its files. So raw maps are known by their content and pictures by the name of
    their raw maps, which are written before them. Whatever else lies in the folder stays.

    Args:
        folder: Where maps are about to be written; it need not exist.

    Raises:
        UserError: A file cannot be removed.
    """
    stored = [path for path in sorted(folder.glob("*.npz")) if is_stored(path)]
    if not stored and not (folder / CONTENT).is_file():
        return
    try:
        # First what says that the folder is whole, last what says that it is ours.
        for name in (CONTENT, MANIFEST, FIGURES, PAIRS, *_pictures(SHEET)):
            (folder / name).unlink(missing_ok=True)
        for path in stored:
            for name in _pictures(path.stem):
                (folder / name).unlink(missing_ok=True)
            path.unlink()
    except OSError as error:
        raise disk_error(error, folder / CONTENT) from error


def _pictures(stem: str) -> list[str]:
    """Every name that a picture of this stem may have."""
    return [f"{stem}.png", *(picture_name(stem, key, ("", "")) for key in product(METHODS, TARGETS))]
