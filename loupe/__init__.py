"""loupe: photos or multi-view video in, a model that renders new 4K views out."""

__version__ = "0.1.0"
