"""Ground floor: records, manifests, config loading, atomic files, logging. No torch, no network."""
