"""What a command says while it works, where nobody watches a terminal."""

import pytest

from densityclip import terminal


@pytest.mark.parametrize(
    ("seconds", "pieces", "said"), [(10, 5, "0.5/s"), (90, 3, "2.0/min"), (7200, 3, "1.5/h"), (2, 400, "200/s")]
)
def test_a_rate_is_told_in_the_unit_that_shows_it(seconds, pieces, said, monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    with terminal.progress("work") as report:
        # What an earlier run has done does not count.
        report(100, 100 + pieces)
        now[0] = seconds
        report(100 + pieces, 100 + pieces)
    assert capsys.readouterr().err.endswith(f"work: {100 + pieces} of {100 + pieces}, {said}\n")
