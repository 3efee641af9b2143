"""The commands of `lurm`, one file a subject; each adds its parsers to the command line and calls one function of the package."""
