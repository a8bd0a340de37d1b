"""BiomedCLIP, its words, its classifier and its bundle."""
