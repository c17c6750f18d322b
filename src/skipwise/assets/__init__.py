"""Known public packages that carry a model or a text, and the small packaged model."""
