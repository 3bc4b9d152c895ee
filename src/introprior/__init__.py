"""Prior learning in introspective VAEs: the standard Gaussian, fixed and learned mixture priors of Soft-IntroVAE.

``introprior.load`` and ``introprior.results`` are for work after the runs (:mod:`introprior.library`).
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from introprior.library import load as load
    from introprior.library import results as results

__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    if name in ("load", "results"):
        from introprior import library  # late: it brings torch and pandas

        return getattr(library, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
