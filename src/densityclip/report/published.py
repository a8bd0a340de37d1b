"""Published results to stand beside, as data."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """One published result.

    Attributes:
        work: Authors and year, or the study's name.
        data: What it was scored on.
        result: Figures as published.
    """

    work: str
    data: str
    result: str


PUBLISHED: tuple[Published, ...] = (
    Published(
        "The study that this project implements (arXiv:2511.17828, 2025)",
        "96,995 images; image level",
        "accuracy 0.74 (multi-modality), 0.73 (single); AUC above 0.84 for each category; external AUC 0.80 to 0.93",
    ),
    Published(
        "Khara 2024 (Commun Med)",
        "69,697 studies, DM and s2D",
        "joint training: accuracy 82.3% on DM, 82.3% on s2D, AUROC 0.960; DM-only on unseen s2D 79.4%",
    ),
    Published(
        "Matthews 2021",
        "187,627 exams; s2D 20,149",
        "linear kappa DM 0.75; s2D 0.72, and 0.79 after adapting on 500 images; accuracy 82.2%, AUROC 0.952",
    ),
    Published("Lehman 2019", "test 8,677", "linear kappa 0.67 (0.78 against a five-reader consensus); accuracy 77%"),
    Published("Wu 2018", "more than 200,000 exams", "accuracy 76.7%, AUROC 0.916"),
    Published("Chang 2020", "108,230", "kappa 0.667"),
    Published("DBT-DINO 2025", "5,000 DBT exams", "accuracy 0.79; DINOv2 0.73; DenseNet-121 0.74"),
    Published("One reader, read twice (Spayne 2012)", "11,755 women", "agreement 77.2%, weighted kappa 0.70"),
    Published(
        "Readers (Sprague 2016)", "83 radiologists", "called dense 6.3% to 84.5%; 17.2% dense/not-dense discordance"
    ),
)
