"""Tests that several ranks run side by side; `tests/core/test_ranks.py` starts them."""
