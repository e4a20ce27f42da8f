"""megatron_math: from problems to a measured mathematical language model, on Megatron-Core."""

from importlib.metadata import PackageNotFoundError, version

from megatron_math.device.late_compiler import compile_late

try:
    __version__ = version("megatron_math")
except PackageNotFoundError:  # imported from a checkout that was not installed
    __version__ = "0+unknown"

compile_late()  # here, since any module of the package may be the first to import megatron-core
