"""The soft-score store: a teacher's answers, one row per context, looked up by row id."""
