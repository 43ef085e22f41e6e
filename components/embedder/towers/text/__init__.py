"""Text towers, one file each."""
