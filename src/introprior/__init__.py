"""Prior learning in introspective VAEs: the standard Gaussian, fixed and learned mixture priors of Soft-IntroVAE."""

__version__ = "0.2.0"
