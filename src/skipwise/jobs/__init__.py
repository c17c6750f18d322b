"""What the command line and Python users call: extend, evaluate, search."""
