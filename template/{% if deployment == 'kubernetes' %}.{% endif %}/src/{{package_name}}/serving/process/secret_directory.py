"""The directory of the secrets in a pod."""

# Set in the Deployment, which mounts the Secret there.
VARIABLES = ("SECRETS_DIR",)
NAME_PREFIX = ""
