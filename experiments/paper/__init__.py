"""One folder per reproduced figure: ``figure.py`` (its runs, measurements and drawing), ``expected.csv`` and a README."""
