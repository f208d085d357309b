"""Hydra configurations, found as `pkg://lmaps_science.integrations.inversebench.conf`."""
