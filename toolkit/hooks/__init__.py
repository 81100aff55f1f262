"""What a plugin is, and how it is found, checked, called and isolated."""
