"""``python -m introprior`` and the command ``introprior``, which may be interrupted from its first moment on."""

import sys


def main() -> int:
    """Import the commands, and run one; returns the exit code."""
    try:
        from introprior.cli import main
    except KeyboardInterrupt:
        print("introprior: interrupted; run the same command again", file=sys.stderr)
        return 130
    return main()


if __name__ == "__main__":
    sys.exit(main())
