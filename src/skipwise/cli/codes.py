"""Exit codes."""

CHECK_FAILED = 1
USER_ERROR = 2
