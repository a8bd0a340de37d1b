import pickle

from densityclip.errors import UserError
from densityclip.reasons import Reason, Refused


def test_errors_come_back_whole_from_a_worker_process():
    mistake = pickle.loads(pickle.dumps(UserError("the disk is full.", "free some space")))  # noqa: S301
    assert (mistake.fact, mistake.next_step) == ("the disk is full", "free some space")
    refusal = pickle.loads(pickle.dumps(Refused(Reason.NO_BREAST, "nothing bright")))  # noqa: S301
    assert refusal.reason is Reason.NO_BREAST
    assert str(refusal) == "no_breast: nothing bright"
