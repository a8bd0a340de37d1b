"""The libraries of the extra `serve`, which not everyone installs."""

import importlib.util

from densityclip.errors import UserError


def check_installed(what: str, *modules: str) -> None:
    """See that libraries can be imported, before anything is opened.

    Args:
        what: What needs them, the beginning of the sentence.
        modules: Their names in an import.

    Raises:
        UserError: One cannot.
    """
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise UserError(f"{what} needs {module}", "install it: pip install 'densityclip[serve]'")
