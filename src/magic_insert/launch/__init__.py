"""From a composed configuration to a running job."""
