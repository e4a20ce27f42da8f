"""Compiles csrc/ into megatron_math._native; all else about the package is in pyproject.toml."""

from glob import glob

from pybind11.setup_helpers import Pybind11Extension, build_ext
from setuptools import setup

setup(
    ext_modules=[
        Pybind11Extension(
            "megatron_math._native",
            sorted(glob("csrc/*.cpp")),
            depends=glob("csrc/*.h"),
            cxx_std=17,
            # No -march=native: a wheel built on the login node must run on every compute node.
            extra_compile_args=["-O3", "-Wall", "-Wextra", "-fvisibility=hidden", "-pthread"],
            extra_link_args=["-pthread"],
        )
    ],
    cmdclass={"build_ext": build_ext},
)
