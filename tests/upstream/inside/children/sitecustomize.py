"""Imported by every Python subprocess of a test in a run with the layer."""

import layer

layer.apply()
