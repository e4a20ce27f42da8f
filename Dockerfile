# An image for training on GPUs; docs/slurm.md says how clusters run it.
#
#   docker build -t megatron_math .                        # with Transformer Engine, built from source
#   docker build -t megatron_math --build-arg EXTRAS= .    # without: smaller, and minutes sooner
#
# Ubuntu 24.04 brings Python 3.12, for which constraints-compat.txt names what was tested together.
FROM nvidia/cuda:13.0.2-cudnn-devel-ubuntu24.04 AS build
ARG EXTRAS=[gpu]
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN apt-get update \
    && apt-get install --yes --no-install-recommends build-essential python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/megatron_math
ENV PATH=/opt/megatron_math/bin:$PATH
WORKDIR /source
# The slow part first: it stays in the cache until the requirements change.
COPY constraints-compat.txt ./
RUN pip install --no-cache-dir --constraint constraints-compat.txt torch setuptools wheel ninja pybind11
COPY pyproject.toml setup.py MANIFEST.in README.md ./
COPY csrc ./csrc
COPY megatron_math ./megatron_math
RUN pip install --no-cache-dir --no-build-isolation --constraint constraints-compat.txt ".${EXTRAS}"

# Without CUDA's compiler and headers; Triton asks for a C compiler when it runs.
FROM nvidia/cuda:13.0.2-cudnn-runtime-ubuntu24.04
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev python3 python3-dev \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 trainer
COPY --from=build /opt/megatron_math /opt/megatron_math
ENV PATH=/opt/megatron_math/bin:$PATH
USER trainer
WORKDIR /home/trainer
CMD ["megatron-math", "--help"]
