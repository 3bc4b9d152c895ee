"""Metrics: pure functions of arrays; those of the density-estimation benchmark are in `introprior.metrics.density`."""
