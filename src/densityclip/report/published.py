"""Published results to stand beside, as data."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Published:
    """One published result.

    Attributes:
        work: Authors and year, or the study's name.
        data: What it was scored on.
        level: What its figures are over; `unknown` where our source does not say.
        accuracy: As published, empty where it gives none.
        auc: As published, empty where it gives none.
        kappa: As published, empty where it gives none.
    """

    work: str
    data: str
    level: Literal["image", "exam", "reader", "unknown"]
    accuracy: str = ""
    auc: str = ""
    kappa: str = ""


PUBLISHED: tuple[Published, ...] = (
    Published(
        "The study that this project implements (arXiv:2511.17828, 2025)",
        "96,995 images; external: RSNA, EMBED",
        "image",
        accuracy="0.74 multi-modality, 0.73 single",
        auc="above 0.84 in each category; external 0.80 to 0.93",
    ),
    Published(
        "Khara 2024 (Commun Med)",
        "69,697 studies, DM and s2D",
        "exam",
        accuracy="joint training 0.823 on DM and on s2D; DM-only on unseen s2D 0.794",
        auc="0.960",
    ),
    Published(
        "Matthews 2021",
        "187,627 exams; s2D 20,149",
        "exam",
        accuracy="0.822",
        auc="0.952",
        kappa="linear: DM 0.75; s2D 0.72, and 0.79 after adapting on 500 images",
    ),
    Published(
        "Lehman 2019",
        "test 8,677",
        "unknown",
        accuracy="0.77",
        kappa="linear 0.67; 0.78 against a five-reader consensus",
    ),
    Published("Wu 2018", "more than 200,000 exams", "exam", accuracy="0.767", auc="0.916"),
    Published("Chang 2020", "108,230", "unknown", kappa="0.667"),
    Published("DBT-DINO 2025", "5,000 DBT exams", "exam", accuracy="0.79; DINOv2 0.73; DenseNet-121 0.74"),
    Published(
        "One reader, read twice (Spayne 2012)",
        "11,755 women",
        "reader",
        accuracy="agreement 0.772",
        kappa="weighted 0.70",
    ),
    Published(
        "Readers (Sprague 2016)",
        "83 radiologists",
        "reader",
        accuracy="called dense 6.3% to 84.5%; dense or not differed in 17.2%",
    ),
)
