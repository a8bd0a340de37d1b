"""A study file: what it may say, and how it is read."""

from densityclip.study_file.cohorts import STAND_IN_SITE, Cohort, Foundation, Generate, StandIn
from densityclip.study_file.description import Arm, Member, Primary, Study
from densityclip.study_file.reading import SHIPPED, parse_study, read_study, read_train_config, shipped_study

__all__ = [
    "SHIPPED",
    "STAND_IN_SITE",
    "Arm",
    "Cohort",
    "Foundation",
    "Generate",
    "Member",
    "Primary",
    "StandIn",
    "Study",
    "parse_study",
    "read_study",
    "read_train_config",
    "shipped_study",
]
