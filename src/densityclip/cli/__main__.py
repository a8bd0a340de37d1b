"""`python -m densityclip.cli`."""

from densityclip.cli import main

main()
