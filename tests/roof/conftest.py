from train_roads import ranks_are_forks  # noqa: F401
