"""What is measured, not tested: figures for decisions. Noisy machines are no reason to fail."""
