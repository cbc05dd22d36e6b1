"""The report: every trial's scores, pictures, curves and costs on one page, and as a table of numbers."""
