"""The definition of each op: plain torch, any device, any float dtype, twice differentiable. Nothing here is fast.

One module for each module of `ops`, with the same names; all of them are tested against what is known by other means
(formulas in Python integers, optics of slabs), and every backend is tested against them. Of ours they import only
`ops.grid` and `ops.spherical_harmonics`, never the fast side. Inputs were validated by the op of the same name.

Packed points are `[m ...]`, sorted by scene, with `counts [s]`; a table or a set of weights belongs to each scene.
Points behind the counted ones belong to nobody: they get zeros, and are no part of any ray.

To add an op, write its definition here first, then its signature in `ops/`, then kernels.
"""
