"""Manifests, and pods made from them."""
