"""Equalization: the scales of single channels moved from one layer to the next, so that what is rounded is even."""
