"""What `toolkit new` writes: recipes and techniques that work as they are, to be changed from there."""
