"""What a command says of images and exams without an answer: reason by reason, in words."""

from collections.abc import Mapping, Sequence
from typing import Any

from densityclip.reasons import reason_of

# Thousands of images may have one reason; the rest stand in a file.
_NAMED = 5


def say_unanswered(said: str, rows: Sequence[Mapping[str, Any]], *, name: str, where: str) -> None:
    """Say for each reason how many it concerns, what it means, what can be done, and which the first ones are.

    Args:
        said: What happened to them, such as `Refused`.
        rows: Of the images or exams: their id, `reason`, and `detail` where there is one.
        name: The id: `image_id` or `exam_id`.
        where: The file in which all of them stand.
    """
    from densityclip import terminal

    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["reason"], []).append(row)
    for code, mine in sorted(groups.items(), key=lambda group: (-len(group[1]), group[0])):
        what = name.removesuffix("_id") + "s" * (len(mine) != 1)
        terminal.say(f"{said}, {len(mine)} {what} ({code}): {_in_words(code)}")
        for row in mine[:_NAMED]:
            terminal.say(f"  {row[name]}" + (f": {row['detail']}" if row.get("detail") else ""))
        if len(mine) > _NAMED:
            terminal.say(f"  and {len(mine) - _NAMED} more, in {where}")


def _in_words(code: str) -> str:
    reason = reason_of(code)
    return reason.sentence if reason.remedy == "Nothing." else f"{reason.sentence} {reason.remedy}"
