"""The report of a folder of runs: tables, comparisons and pictures, without any account.

python -m expanders.report RUNS_DIR

Runs pass through the modules in this order:

json_files, run_records    run folders as records of what they say
places, cells, grid        runs arranged in tables: arms by degree or model
measures                   what a table shows beside accuracy: one line there, one column here
statistics, comparisons    differences, slopes and variances, and what these allow to say
tables, comparison_tables  all that as text, made of entries; csv_files: as CSV
accuracy_figures, figures  pictures, with matplotlib; panels: what these share
content, page, templates   the sections, and how they look in HTML and Markdown
"""
