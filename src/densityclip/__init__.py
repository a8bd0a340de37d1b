"""DensityCLIP: BiomedCLIP adapted to BI-RADS breast density. Research use only."""

__version__ = "0.1.0"
