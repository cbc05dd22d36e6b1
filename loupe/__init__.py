"""loupe: photos or multi-view video in, a model that renders new 4K views out."""

import os

__version__ = "0.1.0"

# Threads of OpenMP that wait for each other by spinning eat the processor that the awaited one needs as soon as
# another program wants it too: measured on two busy cores, 580 seconds of processor time instead of 82. Read by OpenMP
# when torch is imported, so it stands before any such import.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
