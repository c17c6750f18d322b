"""The laboratory: the tables of the papers on small models, the search for a recipe, the packaged model."""
