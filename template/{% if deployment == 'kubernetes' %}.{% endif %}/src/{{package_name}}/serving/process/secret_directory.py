"""Where the secrets of a pod are."""

# Set beside the volume that mounts the Secret.
VARIABLES = ("SECRETS_DIR",)
NAME_PREFIX = ""
