"""Study files and training settings, read from YAML with every problem named at once."""

import importlib.resources
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from densityclip.errors import UserError
from densityclip.study_file.description import Study
from densityclip.study_file.problems import nearest_first, unknown_keys, validation_problems
from densityclip.training.config import TrainConfig

SHIPPED = ("demo", "ablation", "sites", "archive-rsna-embed", "embed-vindr")
# Of a path that the command line fills in.
_WANTED = re.compile(r"\$\{([a-z][a-z0-9-]*)\}")


def read_study(path: Path, paths: Mapping[str, str] | None = None) -> Study:
    """Read a study file, or one that ships, by its name; all of its problems are named at once.

    Args:
        path: The file, or the name of one that ships.
        paths: What stands for each `${name}` in its paths, relative ones from the current folder.

    Raises:
        UserError: The file is missing, is not YAML, does not describe a study, or wants paths that are not given.
    """
    ships = str(path) in SHIPPED and not path.is_file()
    source = importlib.resources.files("densityclip").joinpath("studies", f"{path}.yaml") if ships else path
    try:
        content = yaml.safe_load(source.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(
            f"{path} does not exist", f"give a study file, or one that ships: {', '.join(SHIPPED)}"
        ) from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} is not readable YAML", "correct it, or start from a study file that ships") from error
    return parse_study(_filled(content, path.absolute().parent, paths or {}, str(path)), str(path))


def _filled(content: Any, folder: Path, paths: Mapping[str, str], name: str) -> Any:
    """The content with the paths it wants filled in, and relative ones taken from the folder of the study file.

    Not from where one happens to be: that is for the paths that are given on the command line.
    """
    if not isinstance(content, dict):
        return content
    wanted: list[str] = []

    def fill(match: re.Match[str]) -> str:
        wanted.append(match[1])
        return str(Path(paths.get(match[1], "")).expanduser().absolute())

    for holder in _path_holders(content):
        for key in ("source", "table", "path", "prompts", "weights"):
            if isinstance(holder.get(key), str):
                holder[key] = str(folder / _WANTED.sub(fill, holder[key]))
    wanted = list(dict.fromkeys(wanted))
    idle, missing = sorted(set(paths) - set(wanted)), [path for path in wanted if not paths.get(path)]
    said = [f"has no path called {', '.join(idle)}"] if idle else []
    said += [f"needs {len(missing)} more path{'s' * (len(missing) > 1)}: {', '.join(missing)}"] if missing else []
    if said:
        known = f"its paths are {', '.join(wanted)}" if wanted else "it has no paths: leave --path out"
        add = "add " + " ".join(f"--path {path}=PATH" for path in missing)
        raise UserError(f"{name} {' and '.join(said)}", "; ".join([known] * bool(idle) + [add] * bool(missing)))
    return content


def _path_holders(content: dict[str, Any]) -> list[dict[str, Any]]:
    """The blocks of a study file that may have paths in them."""

    def blocks(name: str) -> list[Any]:
        found = content.get(name)
        return list(found.values()) if isinstance(found, dict) else []

    trainings = [arm.get("training") for arm in blocks("arms") if isinstance(arm, dict)]
    single = [content.get(name) for name in ("foundation", "training", "baseline_cnn")]
    return [holder for holder in (*single, *trainings, *blocks("cohorts")) if isinstance(holder, dict)]


def parse_study(content: Any, name: str) -> Study:
    """A study from the content of a study file.

    Raises:
        UserError: A key is unknown or missing, or a value is wrong.
    """
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UserError(f"{name} holds no settings by name", "start from a study file that ships")
    try:
        return Study(**content)
    except ValidationError as error:
        unknown = unknown_keys(error)
        known = ", ".join(nearest_first(unknown, Study.model_fields))
        remedy = f"the keys of a study are {known}" if unknown else f"correct {name}; docs/study.md has an example"
        raise UserError(f"{name}: {validation_problems(error, whole='study')}", remedy) from error


def shipped_study(name: str) -> Study:
    """A study file that ships with the package and wants no paths, such as `demo`."""
    text = importlib.resources.files("densityclip").joinpath("studies", f"{name}.yaml").read_text(encoding="utf-8")
    return parse_study(yaml.safe_load(text), name)


def read_train_config(path: Path | None, overrides: list[str]) -> TrainConfig:
    """Training settings from a YAML file and `key=value` texts, the texts going first.

    Raises:
        UserError: The file is not YAML, or a key or value is wrong; all problems are named.
    """
    content: dict[str, Any] = {}
    if path is not None:
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise UserError(f"{path} is not readable YAML", "correct it, or give settings with --set") from error
        if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
            raise UserError(f"{path} holds no settings by name", "write it as lines of key: value")
    for text in overrides:
        name, equals, value = text.removeprefix("train.").partition("=")
        if not equals:
            raise UserError(f"--set {text} has no value", "write it as --set key=value")
        try:
            content[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UserError(f"--set {text} is not readable", "write lists as [DM, s2D], numbers plain") from error
    try:
        return TrainConfig(**content)
    except ValidationError as error:
        unknown = unknown_keys(error)
        known = ", ".join(nearest_first(unknown, TrainConfig.model_fields))
        remedy = f"the keys are {known}" if unknown else "correct them with --set key=value, or in the file of --config"
        raise UserError(f"training settings: {validation_problems(error)}", remedy) from error
