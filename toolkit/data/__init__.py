"""Where samples come from, and how they are read."""
