"""One module or package for each evaluation task."""
