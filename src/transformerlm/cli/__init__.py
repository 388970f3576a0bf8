"""The commands: thin, each a file that reads a config and hands it to the package."""
