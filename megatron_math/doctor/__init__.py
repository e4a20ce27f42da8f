"""`megatron-math doctor`: what this machine and its packages can do, and what to do where not."""
