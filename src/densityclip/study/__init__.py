"""A whole study from one study file: what it will do, and doing it."""

from densityclip.study.at_once import check_at_once
from densityclip.study.check import check_paths
from densityclip.study.measure import measure
from densityclip.study.plan import plan, summary
from densityclip.study.run import StudyRun

__all__ = ["StudyRun", "check_at_once", "check_paths", "measure", "plan", "summary"]
