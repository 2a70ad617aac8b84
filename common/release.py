"""Which release of the product this is."""

from importlib.metadata import PackageNotFoundError, version


def release() -> str:
    """Returns the product and its version, such as `fedgtv 0.1.0`; without one where it is not installed."""
    try:
        return f"fedgtv {version('fedgtv')}"
    except PackageNotFoundError:
        return "fedgtv, not installed"
