"""The report of a run: one HTML file that shows everything and needs nothing else.

Each file here makes one section's data, plain numbers and texts that JSON can hold; `page` puts them into one file
together with `assets`, which draw them. Nothing in Python knows how a chart looks, nothing in JavaScript computes what
a chart says.

Charts are drawn by a module of our own (`assets/chart.js`) and the molecule by another (`assets/viewer.js`), not by
plotly: its script alone is 4.5 MB, fifty times all assets together, it has no picture of a molecule that charts could
be linked to, and it adds styles at run time, which the page's security policy forbids. What charts need here is little:
lines, bands, bars, and a cursor that reads values out.
"""
