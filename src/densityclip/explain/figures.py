"""Names of the figures about maps, and the simple map that each must beat."""

from densityclip.explain.followers import BRIGHTNESS, CENTRE

FLAT = "flat"
INSIDE_BREAST, TISSUE_AUC, POINTING = "energy_breast", "gland_auc", "pointing"
DELETION, INSERTION, NOISE = "deletion", "insertion", "noise"
RANDOMISED, SHUFFLED = "randomised", "shuffled_labels"
# Share of images whose map has no heat, and by how much the score falls when the whole breast turns to fat.
EMPTY, SCORE_RANGE = "empty", "score_range"
# The last stage of randomisation: nothing of the tower is left.
EVERYTHING = "everything"
# Under so many patients no interval is given: a percentile bootstrap of a handful says nothing.
FEWEST_PATIENTS = 5
RESAMPLES = 1000
# One shuffle of a tower is one draw, and what it leaves of a map varies from draw to draw as much as between women.
SHUFFLES = 5
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
