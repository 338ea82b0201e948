"""Runs: fitted scenes in memory and on disk, and everything that is written from them.

Lives here: `run` (a run and its folder), `config` (its typed, versioned settings), `scene` (one scene of it), `codec`
(numbers in files), `atomic` (files whole or not at all), `shards` (states of fits in parts), `images`, `video`,
`meshes`, `field_file` and `tcnn` (formats), `render` (pictures, films, walks, files of scenes), `inspect`. May import:
everything below `training`. To add a format, write a function that takes a scene and a path, and give it to
`Scene.save(path, formats={".xyz": write})`, or put it into `render.export_scene` for all: docs/extending.md.
"""
