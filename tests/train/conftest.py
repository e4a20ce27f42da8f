from train_roads import copy_of, prepared, ranks_are_forks, train  # noqa: F401
