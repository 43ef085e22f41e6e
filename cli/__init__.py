"""The commands of `embedline`, one file each."""
