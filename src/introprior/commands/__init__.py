"""What the commands of `introprior` do; `introprior.cli` says how they are called."""
