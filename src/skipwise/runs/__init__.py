"""The folder of a run and the environment that its figures depend on."""
