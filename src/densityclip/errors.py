"""What is said to a person when the tool cannot go on."""

import re

EXIT_DONE = 0
EXIT_SOME_REFUSED = 1
EXIT_NOTHING_DONE = 2


# A name of a file, an option or a path is written as it is; a plain word begins a sentence.
_PLAIN_WORD = re.compile(r"[a-z]+(?=[ ,:;]|$)")


class UserError(Exception):
    """A mistake that the user can mend; shown as one line, without a traceback, and ends with exit code 2.

    The message states the fact, what was expected, and the next thing to do. The fact goes on from what stands before
    it ("densityclip: ..."), the next step is a sentence of its own.

    Attributes:
        fact: What was found.
        next_step: The command or change that leads on.
    """

    def __init__(self, fact: str, next_step: str) -> None:
        self.fact = fact.rstrip(".")
        self.next_step = next_step.rstrip(".")
        super().__init__(f"{self.fact}. {_begun(self.next_step)}.")

    def __reduce__(self) -> tuple[type["UserError"], tuple[str, str]]:
        # Exceptions are pickled by their message alone; one that comes back from a worker must be whole.
        return type(self), (self.fact, self.next_step)


def _begun(sentence: str) -> str:
    """A sentence with a capital, where it begins with a plain word."""
    return sentence[:1].upper() + sentence[1:] if _PLAIN_WORD.match(sentence) else sentence
