"""From slices to exams; knows no torch."""
