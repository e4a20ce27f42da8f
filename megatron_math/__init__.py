"""megatron_math: from problems to a measured mathematical language model, on Megatron-Core."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("megatron_math")
except PackageNotFoundError:  # imported from a checkout that was not installed
    __version__ = "0+unknown"
