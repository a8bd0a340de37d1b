"""The items of two reporting checklists, in our own words, and which of them a study of this software can answer.

Numbers and subjects of the items: CLAIM, 2024 update, 44 items (Tejani et al., Radiology: Artificial Intelligence 2024,
doi:10.1148/ryai.240300), and TRIPOD+AI, 27 items with their parts (Collins et al., BMJ 2024,
doi:10.1136/bmj-2023-078378). The wording that counts is theirs.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Item:
    """One item.

    Attributes:
        number: As the checklist counts.
        subject: What it asks for, in our words.
        answer: Which fact of the study answers it (a key of `checklist.facts`); empty where only the authors know.
    """

    number: str
    subject: str
    answer: str = ""


CLAIM: tuple[Item, ...] = (
    Item("1", "A title that says that this is a study of AI, and of which kind"),
    Item("2", "A summary of design, methods, results and conclusions"),
    Item("3", "Background, and what the software is meant for", "intended"),
    Item("4", "Aims and hypotheses", "question"),
    Item("5", "Prospective or retrospective"),
    Item("6", "What the study is to achieve", "question"),
    Item("7", "Where the data come from", "cohorts"),
    Item("8", "Who was included and who was not", "eligibility"),
    Item("9", "How images were prepared", "preparation"),
    Item("10", "Which part of the data was used", "flow"),
    Item("11", "How patients' identity was removed"),
    Item("12", "What was done about missing data", "missing"),
    Item("13", "How the images were acquired", "acquisition"),
    Item("14", "How the reference labels were made"),
    Item("15", "Why this reference was chosen"),
    Item("16", "Who wrote the labels, and how qualified they were"),
    Item("17", "How the labels of the test set were made"),
    Item("18", "How far readers agree with each other and with themselves", "readers"),
    Item("19", "How data were divided", "split"),
    Item("20", "What the parts do not share: patients, exams, images", "disjoint"),
    Item("21", "How large the test was meant to be, and why"),
    Item("22", "The model", "model"),
    Item("23", "Software and its versions", "software"),
    Item("24", "Where the weights started", "start"),
    Item("25", "How it was trained", "training"),
    Item("26", "How the final model was chosen", "selection"),
    Item("27", "How several models were joined", "ensemble"),
    Item("28", "Measures of performance", "measures"),
    Item("29", "Significance and uncertainty", "uncertainty"),
    Item("30", "Robustness and sensitivity", "robustness"),
    Item("31", "Explanations of what the model did", "maps"),
    Item("32", "Evaluation on data of the same source", "internal"),
    Item("33", "Test on data of other sources", "external"),
    Item("34", "Registration as a clinical trial"),
    Item("35", "Patients and exams included and excluded", "flow"),
    Item("36", "Who the patients of each part and cohort are", "demographics"),
    Item("37", "Results with their uncertainty", "results"),
    Item("38", "Diagnostic performance and its precision", "diagnostic"),
    Item("39", "What went wrong, and how", "failures"),
    Item("40", "Limits of the study"),
    Item("41", "What follows for practice"),
    Item("42", "Where the protocol can be read", "registration"),
    Item("43", "Whether software, model and data can be had", "availability"),
    Item("44", "Who paid, and what they decided"),
)

TRIPOD_AI: tuple[Item, ...] = (
    Item("1", "A title that names the development or evaluation of a model, the people and the outcome"),
    Item("2", "An abstract after the checklist for abstracts"),
    Item("3a", "The context in health care, and why a model"),
    Item("3b", "For whom and for what the model is meant", "intended"),
    Item("3c", "Known inequalities in health between groups"),
    Item("4", "Objectives: development, evaluation or both", "question"),
    Item("5a", "Sources of data for development and evaluation", "cohorts"),
    Item("5b", "Dates of the data", "dates"),
    Item("6a", "Setting and centres", "cohorts"),
    Item("6b", "Who was eligible", "eligibility"),
    Item("6c", "Treatments, where they matter"),
    Item("7", "How data were prepared and checked", "preparation"),
    Item("8a", "The outcome and how it was assessed", "outcome"),
    Item("8b", "Who assessed it"),
    Item("8c", "Whether they were blinded"),
    Item("9a", "How the predictors were chosen", "predictors"),
    Item("9b", "What the predictors are", "predictors"),
    Item("9c", "Who assessed predictors that need judgement", "judgement"),
    Item("10", "How large the study is, and why that is enough"),
    Item("11", "Missing data", "missing"),
    Item("12a", "How the data were used and divided", "split"),
    Item("12b", "How predictors were handled", "preparation"),
    Item("12c", "Type of model, how it was built, and internal validation", "training"),
    Item("12d", "Differences between centres and how they were measured", "groups"),
    Item("12e", "Measures and plots of performance, and comparison of models", "measures"),
    Item("12f", "Whether the model was updated in the evaluation", "updating"),
    Item("12g", "How predictions were computed", "prediction"),
    Item("13", "What was done about rare classes, and recalibration after it", "imbalance"),
    Item("14", "What was done for fairness", "fairness"),
    Item("15", "What the model answers, and thresholds", "output"),
    Item("16", "How development and evaluation data differ", "differences"),
    Item("17", "Ethics approval and consent"),
    Item("18a", "Funding"),
    Item("18b", "Conflicts of interest"),
    Item("18c", "Protocol", "registration"),
    Item("18d", "Registration", "registration"),
    Item("18e", "Whether the data can be had", "availability"),
    Item("18f", "Whether the code can be had", "software"),
    Item("19", "Part of patients and the public"),
    Item("20a", "Flow of participants", "flow"),
    Item("20b", "Who they are, overall and by source", "demographics"),
    Item("20c", "Evaluation data beside development data", "differences"),
    Item("21", "Participants and outcomes in each analysis", "flow"),
    Item("22", "The whole model, so that others can use it", "availability"),
    Item("23a", "Performance with intervals, also in groups", "results"),
    Item("23b", "Differences of performance between centres", "groups"),
    Item("24", "Results of updating", "updating"),
    Item("25", "What the results mean"),
    Item("26", "Limits"),
    Item("27a", "What to do with poor or missing input", "poor_input"),
    Item("27b", "What users must do and know"),
    Item("27c", "What should come next"),
)
