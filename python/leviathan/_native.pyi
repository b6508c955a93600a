"""Types of the compiled module; the code is ``crates/native``."""

__all__ = ["check_cluster", "engine_defaults", "version"]

def version() -> str:
    """Version of the workspace that the module was built from."""

def check_cluster(text: str) -> None:
    """Raises ``ValueError`` (with line and column) if the head could not read this cluster description."""

def engine_defaults() -> str:
    """The engine's tunables with their defaults, as JSON."""
