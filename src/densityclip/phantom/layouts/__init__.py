"""Whose folders and tables a generated site is written in, by its name for `densityclip index --dataset`."""

from densityclip.phantom.layouts.contract import Layout
from densityclip.phantom.layouts.embed import EMBED
from densityclip.phantom.layouts.export import EXPORT
from densityclip.phantom.layouts.rsna import RSNA

LAYOUTS: dict[str, Layout] = {layout.dataset: layout for layout in (EXPORT, RSNA, EMBED)}
