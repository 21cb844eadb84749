"""Kubernetes manifests, and pods created from them."""
