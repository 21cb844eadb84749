"""Where the secrets of a host are."""

# SECRETS_DIR in containers; systemd sets the other for the unit's LoadCredential=.
VARIABLES = ("SECRETS_DIR", "CREDENTIALS_DIRECTORY")
# systemd puts the id of LoadCredential=secrets.d:DIRECTORY before the name of each file.
NAME_PREFIX = "secrets.d_"
