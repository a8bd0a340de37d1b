"""The ids of a generated exam and of its images; all derive from site, seed and number."""

from dataclasses import dataclass
from datetime import date

from pydicom.uid import generate_uid

from densityclip.phantom.population import Woman
from densityclip.phantom.sites import Machine, Site

# 2.25 is the arc for UIDs made without a registered organisation (DICOM PS3.5, annex B).
_UID_PREFIX = "2.25."


@dataclass(frozen=True, slots=True, kw_only=True)
class ExamIdentity:
    """The ids of one generated exam.

    Attributes:
        key: Unique over sites and seeds; the UIDs derive from it.
        patient_id: As the site's layout writes it, unique in the site.
        accession_number: At most 16 characters.
        study_uid: Study Instance UID.
        study_date: An invented day from 2019 to 2024.
        seed: The user's seed.
        woman: Age, machine.
        site: Institution.
    """

    key: str
    patient_id: str
    accession_number: str
    study_uid: str
    study_date: date
    seed: int
    woman: Woman
    site: Site

    @property
    def machine(self) -> Machine:
        """The unit that made the exam."""
        return self.site.machines[self.woman.machine]

    def uid(self, *what: str) -> str:
        """A UID of something in this exam: the same ids and words give the same UID."""
        return uid(self.key, *what)


def uid(*entropy: str) -> str:
    """A UID of the 2.25 arc, derived from the words alone."""
    return str(generate_uid(prefix=_UID_PREFIX, entropy_srcs=["densityclip phantom", *entropy]))


def identify(woman: Woman, site: Site, seed: int, *, patient_id: str, accession_number: str) -> ExamIdentity:
    """The ids of a woman's exam.

    Args:
        woman: She.
        site: Her site.
        seed: The user's seed.
        patient_id: As the site's layout writes it.
        accession_number: As the site's layout writes it.
    """
    key = f"{site.code}{seed:03d}-{woman.number:05d}"
    return ExamIdentity(
        key=key,
        patient_id=patient_id,
        accession_number=accession_number,
        study_uid=uid(key, "study"),
        study_date=date.fromordinal(date(2019, 1, 7).toordinal() + (woman.number * 37 + seed * 101) % 2150),
        seed=seed,
        woman=woman,
        site=site,
    )
