"""Keeps pytest out of the links `modeling` and `pipelines`, which lead into the package.

Not `norecursedirs`, which goes by the name alone and would leave out tests/modeling and tests/pipelines.
"""

collect_ignore = ["modeling", "pipelines"]
