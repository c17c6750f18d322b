"""The report's parts: what a run folder holds, what is said about it, and the page's HTML, CSS and JavaScript."""
