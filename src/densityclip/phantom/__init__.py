"""Generated exams with known truth."""
