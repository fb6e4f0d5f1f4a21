"""Read models in SQL: the mirror of the log, the tables folded from it, and who writes them."""
