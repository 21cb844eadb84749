"""${message.capitalize()}."""

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}
revision = "${up_revision}"
down_revision = ${'"%s"' % down_revision if down_revision else None}


def upgrade() -> None:
    """Apply it while the previous version still runs: first add, remove in a later release."""
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    """Undo it; a rollback of the service does not run this."""
    ${downgrades if downgrades else "pass"}
