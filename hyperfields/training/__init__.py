"""Training: the one loop that fits, and what is built on it.

Lives here: `fit` (a fit in a folder or in memory), `outcome` (what it leaves behind), `trainer` (the loop), `step` (how
a device takes a step), `optim`, `parts` and `distributed` (a family in parts, and processes that fit it together),
`state` (what a fit goes on from), `regularizers`, `alone` (every scene by itself), `inference` (codes of unseen
scenes), `continual` (scenes added to a run), `cost`. May import: everything below it, `runs` included; it never asks
for a kind of scenes, `tasks` does. To add a regularizer, pass a callable of a `StepState`; to add a schedule, a frozen
dataclass with the call of `tasks.config.Cosine`; to add a way to find codes, see `hyperfields.codes`. None needs a
change here: docs/extending.md.
"""
