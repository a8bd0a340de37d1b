"""What is said to a person when the tool cannot go on."""

EXIT_DONE = 0
EXIT_SOME_REFUSED = 1
EXIT_NOTHING_DONE = 2


class UserError(Exception):
    """A mistake that the user can mend; shown as one line, without a traceback, and ends with exit code 2.

    The message states the fact, what was expected, and the next thing to do.

    Attributes:
        fact: What was found.
        next_step: The command or change that leads on.
    """

    def __init__(self, fact: str, next_step: str) -> None:
        self.fact = fact.rstrip(".")
        self.next_step = next_step.rstrip(".")
        super().__init__(f"{self.fact}. {self.next_step}.")

    def __reduce__(self) -> tuple[type["UserError"], tuple[str, str]]:
        # Exceptions are pickled by their message alone; one that comes back from a worker must be whole.
        return type(self), (self.fact, self.next_step)
