"""Names of the figures about maps, and the simple map that each must beat."""

from densityclip.explain.followers import BRIGHTNESS, CENTRE

FLAT = "flat"
INSIDE_BREAST, TISSUE_AUC, POINTING = "energy_breast", "gland_auc", "pointing"
DELETION, INSERTION, NOISE = "deletion", "insertion", "noise"
RANDOMISED, SHUFFLED = "randomised", "shuffled_labels"
# The last stage of randomisation: nothing of the tower is left.
EVERYTHING = "everything"
AGAINST = {
    INSIDE_BREAST: FLAT,
    TISSUE_AUC: BRIGHTNESS,
    POINTING: BRIGHTNESS,
    DELETION: CENTRE,
    INSERTION: CENTRE,
}


def beyond(figure: str) -> str:
    """Name of the difference between a method's figure and that of the map it must beat."""
    return f"{figure}_beyond_{AGAINST[figure]}"
