"""The version of the package, read by the build and written into every saved configuration."""

__version__ = "0.2.0"
