"""Compensated rounding: what rounding a weight costs is made up for by the weights that are rounded after it."""
