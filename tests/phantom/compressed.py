"""Compressed breasts for the tests of anatomy, tissue and physics."""

from densityclip.phantom.anatomy import build_anatomy, draw_traits
from densityclip.phantom.grid import make_grid
from densityclip.phantom.lines import draw_lines
from densityclip.phantom.parenchyma import draw_style, grow
from densityclip.phantom.population import draw_woman
from densityclip.phantom.randomness import keyed
from densityclip.phantom.tissue import fill

GRID = make_grid(160)


def breast(view="CC", *, number=8, seed=3, grid=GRID, side="L", fraction=0.25):
    """`(woman, anatomy, parenchyma, lines, tissue)` of one breast in one view."""
    woman = draw_woman("internal", seed, number)
    traits = draw_traits("internal", seed, woman)
    half_mm, depth_mm = traits.size_mm(woman, side)
    style = draw_style("internal", seed, number)
    parenchyma = grow(style, depth_mm, half_mm, keyed(seed, "shared"), keyed(seed, side))
    lines = draw_lines(woman, depth_mm, half_mm, keyed(seed, "lines"))
    anatomy = build_anatomy(view, side, woman, traits, grid, keyed(seed, "view", view))
    tissue = fill(anatomy, fraction, parenchyma, lines, view, grid, keyed(seed, "detail", view))
    return woman, anatomy, parenchyma, lines, tissue
