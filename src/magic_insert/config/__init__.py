"""Typed configuration: dataclasses for every job, freeze and thaw, the one place that instantiates targets."""
