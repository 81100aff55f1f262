"""Data sources, and the batches that training and measuring read from them."""
