"""Position layouts of training examples, and how often they show each relative distance. NumPy only."""
