"""Documents, token stores and training examples with skipped positions."""
