"""The checker that jaxtyping puts on every annotated function of the package while tests run (see pyproject.toml).

An int is accepted where a float is annotated, as type checkers do.
"""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
