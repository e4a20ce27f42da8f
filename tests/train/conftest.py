from train_roads import copy_of, prepared, train  # noqa: F401
