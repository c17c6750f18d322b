"""The reproductions: one file each, named after the table or figure, with TITLE, SOURCE and `run(bench)`."""
