"""The machine: CPU with gloo or CUDA with NCCL, the process grid, seeds, local processes.

Reads: environment variables of torchrun, srun or of our own starter.
Writes: nothing.
Promise: on a GPU nothing is patched; on a CPU every patch stands in `on_cpu.PATCHES`, but for one
that must come before the import: `late_compiler`.
"""

import warnings

# Importing megatron-core without Transformer Engine and Apex warns eight times over; which kernels
# run is said once, by `model.build.choose_spec`.
warnings.filterwarnings("ignore", category=UserWarning, module=r"megatron\.core(\.|$)")
# torch's notes to the authors of megatron-core about names that it calls.
warnings.filterwarnings(
    "ignore", category=FutureWarning, module=r"(megatron\.core|torch\.distributed)(\.|$)"
)
