from train_roads import copy_of, prepared  # noqa: F401
