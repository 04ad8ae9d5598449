"""What a sweep varies, and the name that this gives to each of its jobs."""

from collections.abc import Iterable, Mapping, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser

from magic_insert.core.digest import digest

LONGEST_NAME = 120  # a file name may have 255 bytes, and needs room for suffixes


def swept_keys(words: Sequence[str], params: Iterable[str]) -> list[str]:
    """The keys that a sweep varies, in order: those of the sweeper's `params`, then those of the command line."""
    parsed = OverridesParser.create().parse_overrides(list(words))
    return list(dict.fromkeys([*params, *(o.get_key_element() for o in parsed if o.is_sweep_override())]))


def settings_of(overrides: Sequence[str], keys: Sequence[str]) -> dict[str, str]:
    """What one job sets for each of `keys`, as text."""
    found = {
        o.get_key_element(): o.get_value_element_as_str()
        for o in OverridesParser.create().parse_overrides(list(overrides))
    }
    return {key: found[key] for key in keys if key in found}


def job_name(settings: Mapping[str, str]) -> str:
    """A file name such as `seed=1,style.scale=0.5`; different settings of the same keys have different names.

    Where the words alone do not tell settings apart, a digest does: a `/` became `-`, a value holds `=`, or the name
    was cut.
    """
    words = ",".join(f"{key}={value}" for key, value in settings.items())
    name = words.replace("/", "-")[:LONGEST_NAME]
    # A value such as "1,b=2" reads like two settings.
    plain = name == words and words.count("=") == len(settings)
    return name if plain else f"{name}~{digest(dict(settings))}"
