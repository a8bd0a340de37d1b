"""Sentences that every output object repeats."""

NOTICE = "Research use only: not a medical device, no diagnosis, no statement of risk."
