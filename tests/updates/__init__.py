"""Updates from every release, the gate that reports lost edits, and adoption."""
