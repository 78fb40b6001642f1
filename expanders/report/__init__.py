"""The report of a folder of runs: tables, comparisons and pictures, without any account.

python -m expanders.report RUNS_DIR

run_records  run folders, whole and damaged    measures   what is shown beside accuracy
places       settings, cut into what they are  grid       runs arranged in tables
statistics   means, differences, slopes        comparisons  what these allow to say
tables       tables as text    csv_files       figures, panels  pictures, with matplotlib
content      the sections      page, templates     the page and its Markdown twin
"""
