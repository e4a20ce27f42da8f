"""Will it fit, how fast will it be, what will it cost? Answers from a road file, without a GPU."""
