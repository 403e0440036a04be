"""RadZero."""
