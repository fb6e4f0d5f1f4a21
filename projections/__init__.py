"""Read models in SQL: the mirror of the log, tables folded from it, and the projector that writes them."""
