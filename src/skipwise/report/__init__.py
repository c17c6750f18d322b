"""Self-contained HTML pages of runs, results, inspections and plans."""
