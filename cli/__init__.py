"""The commands of `embedline`, a module each: it parses, calls and prints. What it calls is imported when it runs."""
