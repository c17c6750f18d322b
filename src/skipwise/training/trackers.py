"""Experiment trackers, which transformers runs by name."""

from skipwise.errors import SkipwiseError

NOT_LISTED = ("flyte",)
"""Trackers that transformers knows and does not look for among the installed packages."""


def check_trackers(names: list[str]) -> None:
    """Refuse a tracker that transformers does not know or whose package is not installed.

    Raises:
        SkipwiseError: For the first such name.
    """
    if not names:
        return
    from transformers.integrations import get_available_reporting_integrations, get_reporting_integration_callbacks

    for name in names:
        try:
            get_reporting_integration_callbacks([name])
        except ValueError as error:
            known = str(error).rpartition("only ")[2].removesuffix(" are supported.")
            raise SkipwiseError(f"training.report_to: there is no tracker {name!r}; known are {known}") from error
        if name not in (*get_available_reporting_integrations(), *NOT_LISTED):
            raise SkipwiseError(
                f"training.report_to: the package of tracker {name!r} is not installed; install it or leave it out"
            )
