"""Taking a person out of a warehouse, proving it, and keeping them out."""
