"""The report of a folder of runs: tables, comparisons and pictures, without any account.

python -m expanders.report RUNS_DIR

read         run folders, whole and broken     figures   pictures, with matplotlib
grid         runs arranged in tables           tables    tables as HTML, Markdown and CSV
statistics   means, differences, variances     page      the page and its Markdown twin
conclusions  what these allow to say
"""
