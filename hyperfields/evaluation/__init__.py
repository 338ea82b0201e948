"""Evaluation: reports about fitted runs, as what JSON can hold, with a `format_...` for people beside each.

Lives here: `report.py` (quality against the data), `protocols.py` (by what papers measure), `page.py` (as HTML, with
`charts.py`), `uncertainty.py` (where pictures may be wrong, and its calibration), `health.py` (signals and gradients),
`compare.py` (generators at equal budgets), `morph.py` (what lies between scenes, with `surfaces.py`), `latents.py`
(axes, neighbours and samples of codes), `added.py` (scenes added to a run), `lpips.py`, `tables.py` and `plots.py`.
May import: everything but cli, scenes, viewer.

To add a metric: an entry of `metrics` and a value of `measure` in the task (tasks/); reports, tables and comparisons
take it from there. To add a report: a module with a function that returns a dict, a `format_` of it, and a verb in
cli/.
"""
