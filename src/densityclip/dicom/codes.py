"""Codes of mammography views and of what modifies them (DICOM PS3.16, CID 4014 and CID 4015).

Codes are read by value, never by meaning, in SNOMED CT (SCT) and in the older SRT form that archives still hold.
"""

# Value of the code -> the word that stands in tables.
VIEWS: dict[str, str] = {
    "399162004": "CC",
    "399368009": "MLO",
    "399260004": "ML",
    "399352003": "LM",
    "399099002": "LMO",
    "399192008": "XCCL",
    "399101009": "XCCM",
    "399196006": "FB",
    "399188001": "SIO",
    "441555000": "ISO",
    "127457009": "specimen",
    "R-10242": "CC",
    "R-10226": "MLO",
    "R-10224": "ML",
    "R-10228": "LM",
    "R-10230": "LMO",
    "R-1024A": "XCCL",
    "R-1024B": "XCCM",
    "R-10244": "FB",
    "R-102D0": "SIO",
    "R-40AAA": "ISO",
    "G-8310": "specimen",
}

MODIFIERS: dict[str, str] = {
    "399163009": "magnification",
    "399055006": "spot compression",
    "399110001": "tangential",
    "399209000": "implant displaced",
    "399161006": "cleavage",
    "399011000": "axillary tail",
    "442580003": "axillary tissue",
    "399197002": "rolled lateral",
    "399226006": "rolled medial",
    "415670009": "rolled superior",
    "414493004": "rolled inferior",
    "441752004": "anterior compression",
    "442593008": "infra-mammary fold",
    "442581004": "nipple in profile",
    "127457009": "specimen",
    "R-102D6": "magnification",
    "R-102D7": "spot compression",
    "R-102C2": "tangential",
    "R-102D5": "implant displaced",
    "R-102D2": "cleavage",
    "R-102D1": "axillary tail",
    "R-40AB2": "axillary tissue",
    "R-102D3": "rolled lateral",
    "R-102D4": "rolled medial",
    "R-102C9": "rolled superior",
    "R-102CA": "rolled inferior",
    "P2-00161": "anterior compression",
    "R-40ABE": "infra-mammary fold",
    "R-40AB3": "nipple in profile",
    "G-8310": "specimen",
}

# ViewPosition as vendors write it where the coded view is missing; suffixes name modifiers (PS3.3 C.8.11.7).
MODIFIER_SUFFIXES: dict[str, str] = {
    "ID": "implant displaced",
    "TAN": "tangential",
    "AT": "axillary tail",
    "CV": "cleavage",
    "RL": "rolled lateral",
    "RM": "rolled medial",
    "RS": "rolled superior",
    "RI": "rolled inferior",
}

# What makers write into Manufacturer differs with the device's age and owner; the first word that is found names it.
_VENDORS: tuple[tuple[str, str], ...] = (
    ("HOLOGIC", "Hologic"),
    ("LORAD", "Hologic"),
    ("GE MEDICAL", "GE"),
    ("GE HEALTHCARE", "GE"),
    ("GENERAL ELECTRIC", "GE"),
    ("SIEMENS", "Siemens"),
    ("FUJI", "Fujifilm"),
    ("GIOTTO", "IMS Giotto"),
    ("I.M.S", "IMS Giotto"),
    ("PLANMED", "Planmed"),
    ("PHILIPS", "Philips"),
    ("SECTRA", "Sectra"),
    ("CARESTREAM", "Carestream"),
    ("KODAK", "Carestream"),
    ("KONICA", "Konica Minolta"),
    ("AGFA", "Agfa"),
    ("METALTRONICA", "Metaltronica"),
)


def vendor_name(written: str | None) -> str | None:
    """One name for a maker, however its devices write it (`LORAD, A Hologic Company` is Hologic).

    Returns:
        The name; an unknown maker's as it is written; None for a blank.
    """
    upper = (written or "").upper()
    if upper == "GE":
        return "GE"
    return next((name for word, name in _VENDORS if word in upper), written or None)
