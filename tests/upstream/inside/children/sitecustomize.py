"""Imported by every interpreter that a test of a layered run starts."""

import layer

layer.apply()
