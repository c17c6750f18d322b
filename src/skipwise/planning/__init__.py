"""What a model's positions allow and what a run will cost, before anything is loaded."""
