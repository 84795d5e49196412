"""The report of a run: one HTML file that shows everything and needs nothing else.

Each file here makes one section's data, plain numbers and texts that JSON can hold; `page` puts them into one file
together with `assets`, which draw them. Nothing in Python knows how a chart looks, nothing in JavaScript computes what
a chart says.

Charts are drawn by a module of our own of some 300 lines (`assets/chart.js`) and the molecule by another
(`assets/viewer.js`), not by plotly: its script alone is 4.5 MB, fifty times that of the whole page without it, takes a
phone a second to start, cannot show a molecule, and needs inline styles that the page's security policy forbids. What
charts need here, lines, bands, bars and a readable cursor, is little.
"""
