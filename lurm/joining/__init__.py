"""Labels joined to embeddings point in time: which release an instant gets, rows of any frame, and the join itself."""
