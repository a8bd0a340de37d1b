"""One exam to every output object."""
