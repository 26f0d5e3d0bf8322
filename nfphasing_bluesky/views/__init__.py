"""Live plot for IPython, figures, report."""
