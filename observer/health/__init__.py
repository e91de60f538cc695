"""Facts and thresholds -> graded checks, one verdict, and `mintline doctor`."""
