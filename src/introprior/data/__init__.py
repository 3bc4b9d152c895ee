"""Data: the two-dimensional distributions of the density-estimation benchmark (`introprior.data.density`)."""
