"""The directory of the secrets on a host."""

# SECRETS_DIR in containers; systemd sets CREDENTIALS_DIRECTORY for LoadCredential=.
VARIABLES = ("SECRETS_DIR", "CREDENTIALS_DIRECTORY")
# systemd prefixes each file name with the ID in LoadCredential=secrets.d:DIRECTORY.
NAME_PREFIX = "secrets.d_"
