"""Every value a user can set, as frozen dataclasses: one per configuration group and one per job.

Field types are checked when Hydra composes, what fields declare (config/fields.py) when `config.freeze` makes these
classes. Defaults live in conf/*.yaml where a group has several choices, and here where there is only one.
"""
