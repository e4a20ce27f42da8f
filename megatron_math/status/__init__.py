"""`megatron-math status`: how far a run is, what it lost, whether it lives. Reads only."""
