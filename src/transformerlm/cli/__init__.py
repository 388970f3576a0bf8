"""The commands: one thin module each, which reads a config and calls the package."""
